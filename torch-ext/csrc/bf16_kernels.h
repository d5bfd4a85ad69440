// The loops of kernels.h over bfloat16, for passes without gradients. They round where libtorch's separate operations
// round, so that a pass that generates gives what a pass that trains gives.
#pragma once
#include <cstdint>

namespace xplore {

void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, int64_t begin,
                        int64_t end, int64_t dim, float eps);
void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width);
// x [rows, heads, dim] with `row_stride` numbers between rows; y contiguous.
void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                    int64_t begin, int64_t end, int64_t heads, int64_t dim);

}  // namespace xplore
