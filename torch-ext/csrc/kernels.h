// Loops over fp32 and bf16 numbers for the CPU. Every function works on the rows [begin, end) so that the caller can
// split the work. Those for bf16 have no way back: training in bf16 takes libtorch's operations.
#pragma once
#include <cstdint>

namespace xplore {

// y[r,:] = w * x[r,:] / sqrt(mean(x[r,:]^2) + eps);  inv[r] keeps the reciprocal root for the way back.
void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end, int64_t dim,
                   float eps);
void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, int64_t begin,
                        int64_t end, int64_t dim, float eps);
// dx of the first; dw is added to (the caller gives each thread its own).
void rms_norm_rows_backward(const float* dy, const float* x, const float* w, const float* inv, float* dx, float* dw,
                            int64_t begin, int64_t end, int64_t dim);

// gate_up[r] = [gate | up] (2*width) -> out[r] = silu(gate) * up.
void swiglu_rows(const float* gate_up, float* out, int64_t begin, int64_t end, int64_t width);
void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width);
void swiglu_rows_backward(const float* dout, const float* gate_up, float* dgate_up, int64_t begin, int64_t end,
                          int64_t width);

// Rotary embedding (row_kernels.h), cos/sin [rows, dim/2]. x is [rows, heads, dim] with `row_stride` numbers between
// rows.
void rope_rows(const float* x, int64_t row_stride, const float* cos, const float* sin, float* y, int64_t begin,
               int64_t end, int64_t heads, int64_t dim, float sign);
void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                    int64_t begin, int64_t end, int64_t heads, int64_t dim);

}  // namespace xplore
