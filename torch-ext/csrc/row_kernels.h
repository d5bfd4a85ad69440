// The operations on one token between two products. T is the dtype of the model (values are rounded as libtorch's
// operations on T round them); X and Y are the storage types of the row before and after.
#pragma once
#include <cmath>

#include "numbers.h"

namespace xplore {

// exp(-|x|) is at most 1, so nothing overflows.
FORCE_INLINE float sigmoid(float x) {
  const float e = exponential(-std::fabs(x));
  const float s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}

// y = w * x / sqrt(mean(x^2) + eps); returns the reciprocal root.
template <class X, class T, class Y>
FORCE_INLINE float rms_norm_row(const X* x, const T* w, Y* y, int64_t dim, float eps) {
  const float sum = sum_of(0, dim, [&](int64_t i) { return widen(x[i]) * widen(x[i]); });
  const float scale = 1.0f / std::sqrt(sum / dim + eps);
  for (int64_t i = 0; i < dim; ++i) put<T>(y[i], rounded<T>(widen(x[i]) * scale) * widen(w[i]));
  return scale;
}

// out = silu(gate) * up.
template <class T, class X, class Y>
FORCE_INLINE void swiglu_row(const X* gate, const X* up, Y* out, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float g = widen(gate[i]);
    put<T>(out[i], rounded<T>(g * sigmoid(g)) * widen(up[i]));
  }
}

// Rotary embedding of one head in the half-split layout of Hugging Face: y = x*cos + rotate_half(x)*sin, with cos and
// sin of dim / 2 angles. `sign` -1 applies the transpose (the backward pass).
template <class T, class X, class Y>
FORCE_INLINE void rope_row(const X* x, const float* cos, const float* sin, Y* y, int64_t dim, float sign) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float c = rounded<T>(cos[i]), s = sign * rounded<T>(sin[i]), a = widen(x[i]), b = widen(x[i + half]);
    put<T>(y[i], rounded<T>(a * c) - rounded<T>(b * s));
    put<T>(y[i + half], rounded<T>(b * c) + rounded<T>(a * s));
  }
}

}  // namespace xplore
