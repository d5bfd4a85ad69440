// The loop over tiles that all kinds of skinny products share. Included after `#pragma GCC target`, so that everything
// in it is compiled for the instructions that the including file names.
#pragma once
#include "skinny.h"

namespace xplore {
namespace {

// Weights of so many bytes stay in the second-level cache while all bundles pass over them; so many columns of x stay
// in the first.
constexpr int64_t kGroupBytes = 256 << 10, kDepth = 1024;

// Columns a tile covers at once, so that its sums, the weights and one vector of x fill the 32 registers.
template <int R>
constexpr int kCols = R > 6 ? 3 : R > 4 ? 4 : R > 3 ? 6 : 7;

// Sums of the 16 numbers of each of four vectors.
INSIDE __m128 sum_each(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Writes the sums of a tile, or adds them to those of the columns of x before.
template <int R, int C>
INSIDE void put_sums(const __m512 (&acc)[R][C], float* y, int64_t stride, bool add) {
  for (int c = 0; c < C; c += 4) {
    constexpr auto last = C - 1;
    const int count = C - c < 4 ? C - c : 4;
    const __mmask8 mask = static_cast<__mmask8>((1 << count) - 1);
    for (int r = 0; r < R; ++r) {
      const __m512* a = acc[r];
      __m128 sum = sum_each(a[c], a[c + 1 < C ? c + 1 : last], a[c + 2 < C ? c + 2 : last],
                            a[c + 3 < C ? c + 3 : last]);
      float* to = y + r * stride + c;
      if (add) sum = _mm_add_ps(sum, _mm_maskz_loadu_ps(mask, to));
      _mm_mask_storeu_ps(to, mask, sum);
    }
  }
}

// Keeps the compiler from loading a number again for each product it takes part in.
template <class V>
INSIDE V once(V x) {
  asm("" : "+v"(x));
  return x;
}

// The weights of the tile after the next come from memory while these are used.
template <int C, class T>
INSIDE void fetch(const T* w, int64_t k) {
  for (int c = 0; c < C; ++c)
    for (int64_t i = 0; i < 32; i += 64 / static_cast<int64_t>(sizeof(T)))
      _mm_prefetch(reinterpret_cast<const char*>(w + (c + 2 * C) * k + i), _MM_HINT_T1);
}

template <class How, int R, int C>
INSIDE void tile(const typename How::X* x, const typename How::Weight* w, float* y, int64_t k, int64_t depth,
                 int64_t stride, bool first, bool add) {
  __m512 acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
  for (int64_t i = 0; i < depth; i += 32) {
    if (first) fetch<C>(w + i, k);
    How::template step<R, C>(x + i * R, w + i, k, acc);
  }
  put_sums<R, C>(acc, y, stride, add);
}

// Columns [begin, end) of y for a bundle of R rows and `depth` columns of x.
template <class How, int R>
void bundle(const typename How::X* x, const typename How::Weight* w, float* y, int64_t k, int64_t depth, int64_t begin,
            int64_t end, int64_t stride, bool first, bool add) {
  int64_t n = begin;
  for (; n + kCols<R> <= end; n += kCols<R>)
    tile<How, R, kCols<R>>(x, w + n * k, y + n, k, depth, stride, first, add);
  for (; n < end; ++n) tile<How, R, 1>(x, w + n * k, y + n, k, depth, stride, first, add);
}

template <class How>
void product(const void* bundled, const void* weights, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
             int64_t stride) {
  const auto* x = static_cast<const typename How::X*>(bundled);
  const auto* w = static_cast<const typename How::Weight*>(weights);
  constexpr decltype(&bundle<How, 1>) kBundles[] = {bundle<How, 1>, bundle<How, 2>, bundle<How, 3>, bundle<How, 4>,
                                                    bundle<How, 5>, bundle<How, 6>, bundle<How, 7>, bundle<How, 8>};
  const int64_t parts = (k + kDepth - 1) / kDepth, bundles = skinny_bundles(m);
  const int64_t fit = kGroupBytes / (k / parts * static_cast<int64_t>(sizeof *w)) / 12 * 12;
  const int64_t group = fit > 12 ? fit : 12;
  for (int64_t n = begin; n < end; n += group) {
    const int64_t last = n + group < end ? n + group : end;
    for (int64_t p = 0; p < parts; ++p) {
      const int64_t from = k / 32 * p / parts * 32, depth = k / 32 * (p + 1) / parts * 32 - from;
      for (int64_t b = 0; b < bundles; ++b) {
        const int64_t row = skinny_first_row(m, b), rows = skinny_first_row(m, b + 1) - row;
        kBundles[rows - 1](x + row * k + from * rows, w + from, y + row * stride, k, depth, n, last, stride, b == 0,
                           p > 0);
      }
    }
  }
}

}  // namespace
}  // namespace xplore
