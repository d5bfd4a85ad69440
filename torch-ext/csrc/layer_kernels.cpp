#include "layer_kernels.h"

#include "cpu/attention.h"
#include "row_kernels.h"

namespace xplore {

namespace {

template <class T>
FORCE_INLINE void add_bias(float* sums, const T* bias, int64_t n) {
  if (bias)
    for (int64_t i = 0; i < n; ++i) sums[i] = rounded<T>(sums[i] + widen(bias[i]));
  else if (sizeof(T) == 2)
    for (int64_t i = 0; i < n; ++i) sums[i] = rounded<T>(sums[i]);
}

template <class T, class Y>
FORCE_INLINE void add_row(const float* residual, const float* sums, const T* bias, Y* out, int64_t n) {
  if (bias)
    for (int64_t i = 0; i < n; ++i) put<T>(out[i], residual[i] + rounded<T>(sums[i] + widen(bias[i])));
  else
    for (int64_t i = 0; i < n; ++i) put<T>(out[i], residual[i] + rounded<T>(sums[i]));
}

template <class T>
FORCE_INLINE void add_and_norm_row(const RowShape& s, float* residual, const float* sums, const T* bias, const T* norm,
                                   float* normed) {
  if (sums) add_row(residual, sums, bias, residual, s.hidden);
  rms_norm_row(residual, norm, normed, s.hidden, s.eps);
}

template <class T>
FORCE_INLINE void split_row(const RowShape& s, const HeadWeights<T>& w, float* sums, const float* cos, const float* sin,
                            T* keys, T* values, int64_t place) {
  add_bias(sums, w.bias, (s.heads + 2 * s.kv_heads) * s.dim);
  float rotated[kMostDim];
  for (int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
    float* x = sums + h * s.dim;
    const T* norm = h < s.heads ? w.q_norm : w.k_norm;
    if (norm) rms_norm_row(x, norm, x, s.dim, s.eps);
    rope_row<T>(x, cos, sin, rotated, s.dim, 1.0f);
    if (h < s.heads) {
      for (int64_t i = 0; i < s.dim; ++i) x[i] = rotated[i];
    } else {
      T* to = keys + (h - s.heads) * s.dim * kBlock + place;
      for (int64_t i = 0; i < s.dim; ++i) put<T>(to[i * kBlock], rotated[i]);
    }
  }
  const float* v = sums + (s.heads + s.kv_heads) * s.dim;
  for (int64_t h = 0; h < s.kv_heads; ++h) {
    T* to = values + (h * kBlock + place) * s.dim;
    for (int64_t i = 0; i < s.dim; ++i) put<T>(to[i], v[h * s.dim + i]);
  }
}

template <class T>
FORCE_INLINE void gate_row(const RowShape& s, const T* bias, float* sums, float* gated) {
  add_bias(sums, bias, 2 * s.width);
  swiglu_row<T>(sums, sums + s.width, gated, s.width);
}

}  // namespace

EACH_CPU void add_and_norm(const RowShape& s, float* residual, const float* sums, const float* bias, const float* norm,
                           float* normed) {
  add_and_norm_row(s, residual, sums, bias, norm, normed);
}
EACH_CPU void add_and_norm(const RowShape& s, float* residual, const float* sums, const uint16_t* bias,
                           const uint16_t* norm, float* normed) {
  add_and_norm_row(s, residual, sums, bias, norm, normed);
}

EACH_CPU void add(const RowShape& s, const float* residual, const float* sums, const float* bias, float* out) {
  add_row(residual, sums, bias, out, s.hidden);
}
EACH_CPU void add(const RowShape& s, const float* residual, const float* sums, const uint16_t* bias, uint16_t* out) {
  add_row(residual, sums, bias, out, s.hidden);
}

EACH_CPU void queries_keys_values(const RowShape& s, const HeadWeights<float>& w, float* sums, const float* cos,
                                  const float* sin, float* keys, float* values, int64_t place) {
  split_row(s, w, sums, cos, sin, keys, values, place);
}
EACH_CPU void queries_keys_values(const RowShape& s, const HeadWeights<uint16_t>& w, float* sums, const float* cos,
                                  const float* sin, uint16_t* keys, uint16_t* values, int64_t place) {
  split_row(s, w, sums, cos, sin, keys, values, place);
}

EACH_CPU void gate(const RowShape& s, const float* bias, float* sums, float* gated) { gate_row(s, bias, sums, gated); }
EACH_CPU void gate(const RowShape& s, const uint16_t* bias, float* sums, float* gated) {
  gate_row(s, bias, sums, gated);
}

EACH_CPU void round_to_bf16(float* numbers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) numbers[i] = rounded<uint16_t>(numbers[i]);
}

}  // namespace xplore
