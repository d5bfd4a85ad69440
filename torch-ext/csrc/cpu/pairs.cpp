// Products with the instruction that multiplies pairs of bf16 values.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <cmath>
#include <cstdlib>
#include <utility>

#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define XPLORE_ISA 512
#include "products_impl.h"

namespace xplore {

namespace {

struct PairsPanel {
  using X = uint16_t;
  using W = uint16_t;
  static constexpr int kStep = 2;
  template <int R, int P>
  static FORCE_INLINE void step(Vec (&acc)[R][2 * P], const uint16_t* a, int64_t a_row, const uint16_t* w,
                                int64_t next) {
    __m512bh b[2 * P];
    for (int c = 0; c < 2 * P; ++c) b[c] = (__m512bh)_mm512_loadu_si512(w + c / 2 * next + c % 2 * 2 * kLanes);
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * a_row, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      for (int c = 0; c < 2 * P; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], x, b[c]);
    }
  }
};

}  // namespace

void multiply_pairs(Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k, int64_t count,
                    bool add) {
  multiply_as<PairsPanel>(a, panels, y, y_row, m, k, count, add);
}

}  // namespace xplore
#endif
