// fp32 and bf16 values on a GPU, with the rounding of csrc/numbers.h, and warp reductions. Compiled by NVRTC without
// headers; the kernel sources are concatenated, this file first.
typedef unsigned short bf16;
typedef long long i64;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __uint_as_float(static_cast<unsigned>(x) << 16); }

__device__ inline float infinity() { return __uint_as_float(0x7f800000u); }

// Rounds to nearest, ties to even. Without the check, the NaN that a GPU produces, 0x7fffffff, would round to minus
// zero.
__device__ inline bf16 narrow(float x) {
  if (x != x) return 0x7fff;
  const unsigned bits = __float_as_uint(x);
  return static_cast<bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ inline void put(float& to, float x) { to = x; }
__device__ inline void put(bf16& to, float x) { to = narrow(x); }

// Returns x rounded to the precision of T.
template <class T>
__device__ inline float rounded(float x) {
  return sizeof(T) == 2 ? widen(narrow(x)) : x;
}

// Four neighboring elements, moved by one instruction.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};
template <class T>
__device__ inline Four<T> four(const T* from) {
  return *reinterpret_cast<const Four<T>*>(from);
}

constexpr unsigned kWarp = 32, kAll = 0xffffffffu;

__device__ inline float warp_sum(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(kAll, x, apart);
  return x;
}
__device__ inline float warp_most(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(kAll, x, apart));
  return x;
}

// exp of a positive number may overflow; exp(-|x|) is at most 1.
__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x)), s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}
