#include "skinny.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define WIDE_INSIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"), always_inline)) inline

namespace xplore {

namespace {

// 24 sums, the weights of 4 columns and one vector of x fill the 32 registers.
constexpr int kRows = 6, kCols = 4;
constexpr int64_t kGroupBytes = 256 << 10;

// The compiler is to load again what it could keep: kept, it would push sums out of their registers.
template <class T>
WIDE_INSIDE const T* anew(const T* p) {
  asm volatile("" : "+r"(p));
  return p;
}

template <int R, int C>
WIDE_INSIDE void add_products(const float* x, const __m512 (&wv)[C], __m512 (&acc)[R][C]) {
  for (int r = 0; r < R; ++r) {
    const __m512 xv = _mm512_loadu_ps(x + r * 16);
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_fmadd_ps(xv, wv[c], acc[r][c]);
  }
}

template <int R, int C, class T>
WIDE_INSIDE void tile(const float* x, const T* w, float* y, int64_t k, int64_t stride, bool first) {
  __m512 acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
  for (int64_t i = 0; i < k; i += 32) {
    // The weights of the next columns come from memory while these are used.
    if (first)
      for (int c = 0; c < C; ++c) {
        _mm_prefetch(reinterpret_cast<const char*>(w + (c + C) * k + i), _MM_HINT_T0);
        if (sizeof(T) == 4) _mm_prefetch(reinterpret_cast<const char*>(w + (c + C) * k + i + 16), _MM_HINT_T0);
      }
    __m512 wv[C];
    if constexpr (sizeof(T) == 4) {
      for (int c = 0; c < C; ++c) wv[c] = _mm512_loadu_ps(w + c * k + i);
      add_products<R, C>(x + i * R, wv, acc);
      for (int c = 0; c < C; ++c) wv[c] = _mm512_loadu_ps(w + c * k + i + 16);
    } else {
      // A bf16 number is the upper half of an fp32 one: of 16 pairs a shift gives the even ones, a mask the odd ones.
      for (int c = 0; c < C; ++c)
        wv[c] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w + c * k + i), 16));
      add_products<R, C>(x + i * R, wv, acc);
      const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      const T* again = anew(w);
      for (int c = 0; c < C; ++c)
        wv[c] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(again + c * k + i), upper));
    }
    add_products<R, C>(x + (i + 16) * R, wv, acc);
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) y[r * stride + c] = _mm512_reduce_add_ps(acc[r][c]);
}

// Columns [begin, end) for one bundle of rows, which stays in the first-level cache.
template <int R, class T>
WIDE_INSIDE void bundle(const float* x, const T* w, float* y, int64_t k, int64_t begin, int64_t end, int64_t stride,
                        bool first) {
  int64_t n = begin;
  for (; n + kCols <= end; n += kCols) tile<R, kCols>(x, w + n * k, y + n, k, stride, first);
  for (; n < end; ++n) tile<R, 1>(x, w + n * k, y + n, k, stride, first);
}

// Columns in groups whose weights stay in the second-level cache while all bundles pass over them.
template <class T>
WIDE_INSIDE void all(const float* x, const T* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                     int64_t stride) {
  const int64_t fit = kGroupBytes / (k * static_cast<int64_t>(sizeof(T))) / kCols * kCols;
  const int64_t group = fit > kCols ? fit : kCols;
  for (int64_t n = begin; n < end; n += group) {
    const int64_t last = n + group < end ? n + group : end;
    int64_t r = 0;
    for (; r + kRows <= m; r += kRows) bundle<kRows>(x + r * k, w, y + r * stride, k, n, last, stride, r == 0);
    const float* rest = x + r * k;
    float* out = y + r * stride;
    switch (m - r) {
      case 5: bundle<5>(rest, w, out, k, n, last, stride, r == 0); break;
      case 4: bundle<4>(rest, w, out, k, n, last, stride, r == 0); break;
      case 3: bundle<3>(rest, w, out, k, n, last, stride, r == 0); break;
      case 2: bundle<2>(rest, w, out, k, n, last, stride, r == 0); break;
      case 1: bundle<1>(rest, w, out, k, n, last, stride, r == 0); break;
      default: break;
    }
  }
}

}  // namespace

int64_t skinny_rows(int64_t m, int64_t row) { return m - row < kRows ? m - row : kRows; }

bool has_skinny_kernel() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

WIDE void skinny_f32(const float* x, const float* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                     int64_t stride) {
  all(x, w, y, m, k, begin, end, stride);
}

WIDE void skinny_bf16(const float* x, const uint16_t* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                      int64_t stride) {
  all(x, w, y, m, k, begin, end, stride);
}

}  // namespace xplore

#else

namespace xplore {
bool has_skinny_kernel() { return false; }
int64_t skinny_rows(int64_t, int64_t) { return 1; }
void skinny_f32(const float*, const float*, float*, int64_t, int64_t, int64_t, int64_t, int64_t) {}
void skinny_bf16(const float*, const uint16_t*, float*, int64_t, int64_t, int64_t, int64_t, int64_t) {}
}  // namespace xplore

#endif
