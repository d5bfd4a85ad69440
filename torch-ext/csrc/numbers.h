// fp32 and bf16 values in plain loops, and functions that must compute the same bits on every CPU. Sources that include
// this header are compiled without contraction and reassociation; where a fused multiply-add is intended, it is written
// explicitly. bf16 values are held as their bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "each_cpu.h"

namespace xplore {

FORCE_INLINE float widen(float x) { return x; }
FORCE_INLINE float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds to the nearest bf16 value, ties to even.
FORCE_INLINE uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Returns x rounded to the precision of T.
template <class T>
FORCE_INLINE float rounded(float x) {
  return sizeof(T) == 2 ? widen(narrow(x)) : x;
}

// Stores x rounded to T, in the type of the destination.
template <class T>
FORCE_INLINE void put(uint16_t& to, float x) {
  to = narrow(x);
}
template <class T>
FORCE_INLINE void put(float& to, float x) {
  to = rounded<T>(x);
}

// e^x within 1.5 ulp, 0 below -87.3 (where the result would be subnormal), infinity above 88.7; NaN gives NaN. Computed
// as 2^n · e^r with |r| <= ln 2 / 2, and the polynomial of Cephes' expf for e^r.
FORCE_INLINE float exponential(float x) {
  const float bounded = x > 88.8f ? 88.8f : x < -87.3f ? -87.3f : x;
  // Adding 1.5 · 2^23 rounds to an integer, which is then in the low bits.
  const float shifted = __builtin_fmaf(bounded, 1.44269504f, 12582912.0f), n = shifted - 12582912.0f;
  const float r = __builtin_fmaf(n, 2.12194440e-4f, __builtin_fmaf(n, -0.693359375f, bounded));
  float p = 1.9875691500e-4f;
  p = __builtin_fmaf(p, r, 1.3981999507e-3f);
  p = __builtin_fmaf(p, r, 8.3334519073e-3f);
  p = __builtin_fmaf(p, r, 4.1665795894e-2f);
  p = __builtin_fmaf(p, r, 1.6666665459e-1f);
  p = __builtin_fmaf(p, r, 5.0000001201e-1f);
  p = __builtin_fmaf(p * r, r, r) + 1.0f;
  // Scaled in two halves: 2^128 exceeds the fp32 range, although e^88.7 does not.
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const int32_t exponent = static_cast<int32_t>(bits - 0x4b400000u), half = exponent >> 1;
  const uint32_t low = static_cast<uint32_t>(half + 127) << 23, high = static_cast<uint32_t>(exponent - half + 127)
                                                                       << 23;
  float a, b;
  std::memcpy(&a, &low, sizeof a);
  std::memcpy(&b, &high, sizeof b);
  const float y = p * a * b;
  return x < -87.3f ? 0.0f : y;
}

// Sums in a fixed order: term i goes to partial sum i mod 16, and the 16 are added pairwise, l and l + 8 first.
struct Lanes {
  float sum[16] = {};
};
FORCE_INLINE float total(const Lanes& lanes) {
  float s[8];
  for (int l = 0; l < 8; ++l) s[l] = lanes.sum[l] + lanes.sum[l + 8];
  for (int l = 0; l < 4; ++l) s[l] += s[l + 4];
  return (s[0] + s[2]) + (s[1] + s[3]);
}
// Returns the sum of f(i) for i in [begin, end); begin is a multiple of 16.
template <class F>
FORCE_INLINE float sum_of(int64_t begin, int64_t end, const F& f) {
  Lanes lanes;
  int64_t i = begin;
  for (; i + 16 <= end; i += 16)
    for (int l = 0; l < 16; ++l) lanes.sum[l] += f(i + l);
  for (int l = 0; i < end; ++i, ++l) lanes.sum[l] += f(i);
  return total(lanes);
}

}  // namespace xplore
