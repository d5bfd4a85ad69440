// Products by fp32 multiplications: of fp32 weights, and of bf16 weights that are widened as they are used.
#include "skinny.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include "each_cpu.h"
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#include "skinny_product.h"

namespace xplore {

namespace {

// The compiler is to load again what it could keep: kept, it would push sums out of their registers.
template <class T>
INSIDE const T* anew(const T* p) {
  asm volatile("" : "+r"(p));
  return p;
}

template <int R, int C>
INSIDE void add_products(const float* x, const __m512 (&wv)[C], __m512 (&acc)[R][C]) {
  for (int r = 0; r < R; ++r) {
    const __m512 xv = once(_mm512_loadu_ps(x + r * 16));
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_fmadd_ps(xv, wv[c], acc[r][c]);
  }
}

struct Float {
  using Weight = float;
  using X = float;
  template <int R, int C>
  static INSIDE void step(const float* x, const float* w, int64_t k, __m512 (&acc)[R][C]) {
    __m512 wv[C];
    for (int c = 0; c < C; ++c) wv[c] = _mm512_loadu_ps(w + c * k);
    add_products<R, C>(x, wv, acc);
    for (int c = 0; c < C; ++c) wv[c] = _mm512_loadu_ps(w + c * k + 16);
    add_products<R, C>(x + 16 * R, wv, acc);
  }
};

struct Widened {
  using Weight = uint16_t;
  using X = float;
  // A bf16 number is the upper half of an fp32 one: of 16 pairs a shift gives the even ones, a mask the odd ones.
  template <int R, int C>
  static INSIDE void step(const float* x, const uint16_t* w, int64_t k, __m512 (&acc)[R][C]) {
    __m512 wv[C];
    for (int c = 0; c < C; ++c) wv[c] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w + c * k), 16));
    add_products<R, C>(x, wv, acc);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const uint16_t* again = anew(w);
    for (int c = 0; c < C; ++c)
      wv[c] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(again + c * k), upper));
    add_products<R, C>(x + 16 * R, wv, acc);
  }
};

}  // namespace

void skinny_float(const void* x, const void* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                  int64_t stride) {
  product<Float>(x, w, y, m, k, begin, end, stride);
}

void skinny_widened(const void* x, const void* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                    int64_t stride) {
  product<Widened>(x, w, y, m, k, begin, end, stride);
}

void skinny_put(Product product, void* bundled, int64_t m, int64_t k, int64_t row, int64_t i, const float* numbers,
                     int64_t count) {
  const int64_t bundles = skinny_bundles(m);
  int64_t b = row * bundles / m;
  while (skinny_first_row(m, b + 1) <= row) ++b;
  const int64_t first = skinny_first_row(m, b), rows = skinny_first_row(m, b + 1) - first;
  for (int64_t j = 0; j < count; j += 32) {
    const __m512 a = _mm512_loadu_ps(numbers + j), c = _mm512_loadu_ps(numbers + j + 16);
    const int64_t at = first * k + (i + j) * rows;
    if (product == Product::kPairs) {
      // Exact: they are bf16 numbers already.
      const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
      const __m512i high = _mm512_srli_epi32(_mm512_castps_si512(c), 16);
      uint16_t* to = static_cast<uint16_t*>(bundled) + at + (row - first) * 32;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(low));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), _mm512_cvtepi32_epi16(high));
      continue;
    }
    float* to = static_cast<float*>(bundled) + at + (row - first) * 16;
    if (product == Product::kFloat) {
      _mm512_storeu_ps(to, a);
      _mm512_storeu_ps(to + rows * 16, c);
    } else {
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
      _mm512_storeu_ps(to, _mm512_permutex2var_ps(a, even, c));
      _mm512_storeu_ps(to + rows * 16, _mm512_permutex2var_ps(a, odd, c));
    }
  }
}

}  // namespace xplore
#endif
