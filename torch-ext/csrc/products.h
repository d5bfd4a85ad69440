// The three products of a linear layer. fp32 and CUDA go to libtorch; bf16 on a CPU whose instructions for bf16 are slow
// or missing is multiplied as fp32.
#pragma once
#include <torch/torch.h>

namespace xplore {

// x [m, k] · w [n, k]ᵀ: in x's dtype, or in fp32 with the sums as they are.
at::Tensor product(const at::Tensor& x, const at::Tensor& w, bool wide_result);

// dy [m, n] · w [n, k], in dy's dtype unless w's is wider.
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& w);

// grad [n, k] += dy [m, n]ᵀ · x [m, k]. grad may be fp32 beside bf16 numbers.
void add_weight_gradient(at::Tensor grad, const at::Tensor& dy, const at::Tensor& x);

// dy as the two products of the way back take it, so that what has to be widened is widened once for both.
at::Tensor for_backward(const at::Tensor& dy);

}  // namespace xplore
