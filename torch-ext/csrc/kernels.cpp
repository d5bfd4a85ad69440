#include "kernels.h"

#include <cmath>

#include "each_cpu.h"

namespace xplore {

namespace {

// exp of a positive number may overflow, and the reciprocal that relaxed float rules make of a division turns
// 1/infinity into NaN; exp(-|x|) is at most 1.
INSIDE float sigmoid(float x) {
  const float e = expf(-std::fabs(x));
  const float s = 1.0f / (1.0f + e);
  return x < 0 ? e * s : s;
}

}  // namespace

EACH_CPU void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end,
                            int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) {
    const float* xr = x + r * dim;
    float* yr = y + r * dim;
    float sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += xr[i] * xr[i];
    const float scale = 1.0f / std::sqrt(sum / dim + eps);
    inv[r] = scale;
    for (int64_t i = 0; i < dim; ++i) yr[i] = xr[i] * scale * w[i];
  }
}

EACH_CPU void rms_norm_rows_backward(const float* dy, const float* x, const float* w, const float* inv, float* dx,
                                     float* dw, int64_t begin, int64_t end, int64_t dim) {
  for (int64_t r = begin; r < end; ++r) {
    const float* dyr = dy + r * dim;
    const float* xr = x + r * dim;
    float* dxr = dx + r * dim;
    const float scale = inv[r];
    float dot = 0;
    for (int64_t i = 0; i < dim; ++i) dot += dyr[i] * w[i] * xr[i];
    const float shrink = dot * scale * scale * scale / dim;
    for (int64_t i = 0; i < dim; ++i) {
      dxr[i] = dyr[i] * w[i] * scale - xr[i] * shrink;
      dw[i] += dyr[i] * xr[i] * scale;
    }
  }
}

EACH_CPU void swiglu_rows(const float* gate_up, float* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r) {
    const float* gate = gate_up + r * 2 * width;
    const float* up = gate + width;
    float* o = out + r * width;
    for (int64_t i = 0; i < width; ++i) o[i] = gate[i] * sigmoid(gate[i]) * up[i];
  }
}

EACH_CPU void swiglu_rows_backward(const float* dout, const float* gate_up, float* dgate_up, int64_t begin,
                                   int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r) {
    const float* gate = gate_up + r * 2 * width;
    const float* up = gate + width;
    const float* d = dout + r * width;
    float* dgate = dgate_up + r * 2 * width;
    float* dup = dgate + width;
    for (int64_t i = 0; i < width; ++i) {
      const float s = sigmoid(gate[i]);
      const float silu = gate[i] * s;
      dup[i] = d[i] * silu;
      dgate[i] = d[i] * up[i] * (s + silu * (1.0f - s));
    }
  }
}

EACH_CPU void rope_rows(const float* x, int64_t row_stride, const float* cos, const float* sin, float* y,
                        int64_t begin, int64_t end, int64_t heads, int64_t dim, float sign) {
  const int64_t half = dim / 2;
  for (int64_t r = begin; r < end; ++r) {
    const float* c = cos + r * half;
    const float* s = sin + r * half;
    for (int64_t h = 0; h < heads; ++h) {
      const float* a = x + r * row_stride + h * dim;
      const float* b = a + half;
      float* ya = y + (r * heads + h) * dim;
      float* yb = ya + half;
      for (int64_t i = 0; i < half; ++i) {
        ya[i] = a[i] * c[i] - sign * b[i] * s[i];
        yb[i] = b[i] * c[i] + sign * a[i] * s[i];
      }
    }
  }
}

}  // namespace xplore
