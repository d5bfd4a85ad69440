// The vector registers of one instruction set. Include after `#pragma GCC target`; XPLORE_ISA selects 512, 2 (AVX2 and
// FMA) or 0 (portable, for other compilers and CPUs). Everything here is compiled once per instruction set, in an
// anonymous namespace.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../numbers.h"

#if XPLORE_ISA != 0
#include <immintrin.h>
#endif

namespace xplore {
namespace {

#if XPLORE_ISA == 512

using Vec = __m512;
constexpr int kLanes = 16;
// Number of rows of a product's tile. With two vectors of columns: 24 sums, 2 weights and an activation in 32
// registers.
constexpr int kTileRows = 12;
// Depth and number of the panel parts that are used at once (products_impl.h): 64 KiB each, in an L2 cache of at least
// 1 MiB.
constexpr int64_t kDepth = 512, kGroup = 8;
FORCE_INLINE Vec zero() { return _mm512_setzero_ps(); }
FORCE_INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
FORCE_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
FORCE_INLINE void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
FORCE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
FORCE_INLINE Vec load(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
// Loads two interleaved vectors of bf16 values: the low halves of the 32-bit words are the first, the high halves the
// second.
FORCE_INLINE void load_interleaved(const uint16_t* p, Vec& a, Vec& b) {
  const __m512i both = _mm512_loadu_si512(p);
  a = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  b = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

#elif XPLORE_ISA == 2

using Vec = __m256;
constexpr int kLanes = 8;
// With two vectors of columns: 12 sums, 2 weights and an activation in 16 registers.
constexpr int kTileRows = 6;
// 32 KiB each, because the L2 cache may hold only 256 KiB.
constexpr int64_t kDepth = 512, kGroup = 1;
FORCE_INLINE Vec zero() { return _mm256_setzero_ps(); }
FORCE_INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
FORCE_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
FORCE_INLINE void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
FORCE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
FORCE_INLINE Vec load(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
FORCE_INLINE void load_interleaved(const uint16_t* p, Vec& a, Vec& b) {
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  a = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  b = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

#else

struct Vec {
  float x[8];
};
constexpr int kLanes = 8;
constexpr int kTileRows = 4;
constexpr int64_t kDepth = 512, kGroup = 1;
FORCE_INLINE Vec broadcast(float x) {
  Vec v;
  for (float& each : v.x) each = x;
  return v;
}
FORCE_INLINE Vec zero() { return broadcast(0); }
FORCE_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(v.x, p, sizeof v.x);
  return v;
}
FORCE_INLINE void store(float* p, Vec v) { std::memcpy(p, v.x, sizeof v.x); }
FORCE_INLINE Vec fma(Vec a, Vec b, Vec c) {
  for (int i = 0; i < kLanes; ++i) c.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]);
  return c;
}
FORCE_INLINE Vec load(const uint16_t* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v.x[i] = widen(p[i]);
  return v;
}
FORCE_INLINE void load_interleaved(const uint16_t* p, Vec& a, Vec& b) {
  for (int i = 0; i < kLanes; ++i) a.x[i] = widen(p[2 * i]), b.x[i] = widen(p[2 * i + 1]);
}

#endif

// Prefetches a cache line.
FORCE_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// Number of columns of a panel: two vectors.
constexpr int kPanel = 2 * kLanes;

}  // namespace
}  // namespace xplore
