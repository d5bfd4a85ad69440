#include "kernels.h"

#include "row_kernels.h"

namespace xplore {

EACH_CPU void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end,
                            int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) inv[r] = rms_norm_row(x + r * dim, w, y + r * dim, dim, eps);
}

EACH_CPU void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, int64_t begin,
                                 int64_t end, int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) rms_norm_row(x + r * row_stride, w, y + r * dim, dim, eps);
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
  for (int64_t r = begin; r < end; ++r)
    swiglu_row<float>(gate_up + r * 2 * width, gate_up + (r * 2 + 1) * width, out + r * width, width);
}

EACH_CPU void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r)
    swiglu_row<uint16_t>(gate_up + r * 2 * width, gate_up + (r * 2 + 1) * width, out + r * width, width);
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
  for (int64_t r = begin; r < end; ++r)
    for (int64_t h = 0; h < heads; ++h)
      rope_row<float>(x + r * row_stride + h * dim, cos + r * dim / 2, sin + r * dim / 2, y + (r * heads + h) * dim,
                      dim, sign);
}

EACH_CPU void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                             int64_t begin, int64_t end, int64_t heads, int64_t dim) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t h = 0; h < heads; ++h)
      rope_row<uint16_t>(x + r * row_stride + h * dim, cos + r * dim / 2, sin + r * dim / 2,
                         y + (r * heads + h) * dim, dim, 1.0f);
}

}  // namespace xplore
