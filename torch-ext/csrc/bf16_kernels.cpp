#include "bf16_kernels.h"

#include <cmath>
#include <cstring>

#include "each_cpu.h"

namespace xplore {

namespace {

INSIDE float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Round to nearest, ties to even.
INSIDE uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INSIDE float rounded(float x) { return widen(narrow(x)); }

}  // namespace

EACH_CPU void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, int64_t begin,
                                 int64_t end, int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) {
    const uint16_t* xr = x + r * row_stride;
    uint16_t* yr = y + r * dim;
    float sum = 0;
    for (int64_t i = 0; i < dim; ++i) sum += widen(xr[i]) * widen(xr[i]);
    const float scale = 1.0f / std::sqrt(sum / dim + eps);
    for (int64_t i = 0; i < dim; ++i) yr[i] = narrow(rounded(widen(xr[i]) * scale) * widen(w[i]));
  }
}

EACH_CPU void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r) {
    const uint16_t* gate = gate_up + r * 2 * width;
    const uint16_t* up = gate + width;
    uint16_t* o = out + r * width;
    for (int64_t i = 0; i < width; ++i) {
      const float g = widen(gate[i]), e = expf(-std::fabs(g)), s = 1.0f / (1.0f + e);
      o[i] = narrow(rounded(g * (g < 0 ? e * s : s)) * widen(up[i]));
    }
  }
}

EACH_CPU void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                             int64_t begin, int64_t end, int64_t heads, int64_t dim) {
  const int64_t half = dim / 2;
  for (int64_t r = begin; r < end; ++r) {
    const float* c = cos + r * half;
    const float* s = sin + r * half;
    for (int64_t h = 0; h < heads; ++h) {
      const uint16_t* a = x + r * row_stride + h * dim;
      const uint16_t* b = a + half;
      uint16_t* ya = y + (r * heads + h) * dim;
      uint16_t* yb = ya + half;
      for (int64_t i = 0; i < half; ++i) {
        const float ci = rounded(c[i]), si = rounded(s[i]), ai = widen(a[i]), bi = widen(b[i]);
        ya[i] = narrow(rounded(ai * ci) - rounded(bi * si));
        yb[i] = narrow(rounded(bi * ci) + rounded(ai * si));
      }
    }
  }
}

}  // namespace xplore
