// Loops over floats for the CPU. Every function works on the rows [begin, end) so that the caller can split the work.
#pragma once
#include <cstdint>

namespace xplore {

// y[r,:] = w * x[r,:] / sqrt(mean(x[r,:]^2) + eps);  inv[r] keeps the reciprocal root for the way back.
void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end, int64_t dim,
                   float eps);
// dx of the above; dw is added to (the caller gives each thread its own).
void rms_norm_rows_backward(const float* dy, const float* x, const float* w, const float* inv, float* dx, float* dw,
                            int64_t begin, int64_t end, int64_t dim);

// gate_up[r] = [gate | up] (2*width) -> out[r] = silu(gate) * up.
void swiglu_rows(const float* gate_up, float* out, int64_t begin, int64_t end, int64_t width);
void swiglu_rows_backward(const float* dout, const float* gate_up, float* dgate_up, int64_t begin, int64_t end,
                          int64_t width);

// Rotary embedding in the half-split layout of Hugging Face: y = x*cos + rotate_half(x)*sin, cos/sin [rows, dim/2].
// `sign` -1 applies the transpose (the way back). x is [rows, heads, dim] with `row_stride` floats between rows.
void rope_rows(const float* x, int64_t row_stride, const float* cos, const float* sin, float* y, int64_t begin,
               int64_t end, int64_t heads, int64_t dim, float sign);

}  // namespace xplore
