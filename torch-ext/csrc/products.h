// The three products of a linear layer. fp32 and bf16 on the CPU use cpu/products.h, where a result's bits do not
// depend on the number of rows or threads; other devices and dtypes use libtorch.
#pragma once
#include <ATen/ATen.h>

#include "cpu/products.h"

namespace xplore {

// A weight [n, k] packed into panels, for many products with few rows.
struct PackedWeight {
  explicit PackedWeight(const at::Tensor& w);
  // y [m, n] = x [m, k] · wᵀ, with the fp32 sums unrounded. x has `x_row` elements between rows; for bf16 weights its
  // values must be bf16 values.
  void multiply(const float* x, int64_t x_row, float* y, int64_t m) const;

  Format format;
  int64_t n, k;
  at::Tensor panels;
};

// x [m, k] · w [n, k]ᵀ: in x's dtype, or the unrounded sums in fp32.
at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool wide_result);

// dy [m, n] · w [n, k], in dy's dtype unless w's is wider.
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& w);

// grad [n, k] += dy [m, n]ᵀ · x [m, k]. grad may be fp32 with bf16 inputs. An fp32 gradient continues the chains that
// it holds: consecutive micro-batches give the same bits as one batch.
void add_weight_gradient(at::Tensor grad, const at::Tensor& dy, const at::Tensor& x);

// Returns dy as both products of the backward pass take it, so that it is widened only once.
at::Tensor for_backward(const at::Tensor& dy);

}  // namespace xplore
