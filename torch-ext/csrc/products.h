// The three products of a linear layer. fp32 and bf16 on the CPU are computed by cpu/products.h, where a result's bits do
// not depend on the number of rows or threads; other devices and dtypes by libtorch.
#pragma once
#include <ATen/ATen.h>

#include "cpu/products.h"

namespace xplore {

// A weight [n, k] copied into panels, for many products with few rows.
struct PackedWeight {
  explicit PackedWeight(const at::Tensor& w);
  // y [m, n] = x [m, k] · wᵀ, sums in fp32 as they are. x has `x_row` elements between rows; for bf16 weights its values are
  // bf16 values.
  void multiply(const float* x, int64_t x_row, float* y, int64_t m) const;

  Format format;
  int64_t n, k;
  at::Tensor panels;
};

// x [m, k] · w [n, k]ᵀ: in x's dtype, or in fp32 with the sums as they are.
at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool wide_result);

// dy [m, n] · w [n, k], in dy's dtype unless w's is wider.
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& w);

// grad [n, k] += dy [m, n]ᵀ · x [m, k]. grad may be fp32 beside bf16 values. An fp32 gradient continues the chains that it
// holds: micro-batches in turn give the bits of one batch.
void add_weight_gradient(at::Tensor grad, const at::Tensor& dy, const at::Tensor& x);

// dy as the two products of the backward pass take it, so that what has to be widened is widened once for both.
at::Tensor for_backward(const at::Tensor& dy);

}  // namespace xplore
