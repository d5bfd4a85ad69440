// Products by the instruction that multiplies pairs of bf16 numbers.
#include "skinny.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include "each_cpu.h"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#include "skinny_product.h"

namespace xplore {

namespace {

struct Pairs {
  using Weight = uint16_t;
  using X = uint16_t;
  template <int R, int C>
  static INSIDE void step(const uint16_t* x, const uint16_t* w, int64_t k, __m512 (&acc)[R][C]) {
    __m512bh wv[C];
    for (int c = 0; c < C; ++c) wv[c] = (__m512bh)_mm512_loadu_si512(w + c * k);
    for (int r = 0; r < R; ++r) {
      const __m512bh xv = (__m512bh)once(_mm512_loadu_si512(x + r * 32));
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xv, wv[c]);
    }
  }
};

}  // namespace

void skinny_pairs(const void* x, const void* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                  int64_t stride) {
  product<Pairs>(x, w, y, m, k, begin, end, stride);
}

}  // namespace xplore
#endif
