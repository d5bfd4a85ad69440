// Matrix products with few rows: one new token of each sequence that is generating. libtorch's kernels are made for large
// products; here they spend half their time on packing weights that are used once.
#pragma once
#include <cstdint>

namespace xplore {

// Whether this CPU has what the kernels below need.
bool has_skinny_kernel();

// Rows are taken in bundles; how many the bundle that begins at `row` of `m` has.
int64_t skinny_rows(int64_t m, int64_t row);

// y[m, n] = sum_k x[m, k] * w[n, k] for n in [begin, end); fp32 sums. w is [.., k] row by row, k a multiple of 32; y has
// `stride` numbers a row. x lies bundle by bundle, each [k / 16, rows of the bundle, 16], so that it is read from front to
// back. For bf16 weights, of each 32 numbers of a row the even ones come first, then the odd ones.
void skinny_f32(const float* x, const float* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                int64_t stride);
void skinny_bf16(const float* x, const uint16_t* w, float* y, int64_t m, int64_t k, int64_t begin, int64_t end,
                 int64_t stride);

}  // namespace xplore
