// x · wᵀ + bias, by the kernel for few rows where it applies.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "guard.h"
#include "products.h"
#include "skinny.h"

using at::Tensor;
using xplore::Product;

namespace {

// Beyond so many rows libtorch's kernels win: the packing they begin with is paid once for all rows.
constexpr int64_t kMostRows = 64;
// Where bf16 numbers are widened, with many rows it pays to widen the weights for libtorch's fp32 kernels, if they are not
// so many that the copy weighs.
constexpr int64_t kManyRows = 512, kMostWeights = 32 << 20;

enum class Way { kSkinny, kLarge };

Way way_for(Product product, const Tensor& x, const Tensor& w) {
  const auto type = x.scalar_type();
  const bool fits = x.device().is_cpu() && x.dim() == 2 && x.size(0) > 0 && x.size(1) % 32 == 0 &&
                    (type == at::kFloat || type == at::kBFloat16) && w.scalar_type() == type && w.is_contiguous();
  if (!fits || product == Product::kNone) return Way::kLarge;
  if (x.size(0) <= kMostRows) return Way::kSkinny;
  if (product != Product::kWidened) return Way::kLarge;
  return x.size(0) >= kManyRows && w.numel() <= kMostWeights ? Way::kLarge : Way::kSkinny;
}

Tensor skinny(Product product, const Tensor& x, const Tensor& w) {
  const int64_t m = x.size(0), k = x.size(1), n = w.size(0);
  const Tensor wide = x.to(at::kFloat).contiguous();
  Tensor y = at::empty({m, n}, at::kFloat);
  xplore::Bundled bundled{product, m, k};
  const float* xp = wide.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  void* bp = bundled.data();
  at::parallel_for(0, m, std::max<int64_t>(1, 16384 / k), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) xplore::skinny_put(product, bp, m, k, r, 0, xp + r * k, k);
  });
  at::parallel_for(0, n, std::max<int64_t>(12, 65536 / std::max<int64_t>(1, m * k)), [&](int64_t begin, int64_t end) {
    xplore::skinny(product, bp, w.const_data_ptr(), yp, m, k, begin, end, n);
  });
  return y;
}

}  // namespace

extern "C" {

int xt_linear_train(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, Tensor** result);

// wide_result: in fp32, with the sums as they are; no way back.
int xt_linear(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, int wide_result, Tensor** result) {
  const bool tracked = at::GradMode::is_enabled() && (x->requires_grad() || w->requires_grad());
  if (tracked && !wide_result) return xt_linear_train(x, w, bias, dw, dbias, result);
  return xplore::guarded([&] {
    const auto type = wide_result ? at::kFloat : x->scalar_type();
    const Product product = xplore::skinny_product(x->scalar_type() == at::kBFloat16);
    const Way way = way_for(product, *x, *w);
    Tensor y = way == Way::kSkinny ? skinny(product, *x, *w) : xplore::product(*x, *w, wide_result || bias);
    if (bias) y.add_(*bias);
    *result = new Tensor(y.to(type));
  });
}

// x · wᵀ by the instruction for pairs of bf16 numbers, which the rule above takes on other CPUs only; for its test.
int xt_linear_by_pairs(Tensor* x, Tensor* w, Tensor** result) {
  return xplore::guarded([&] { *result = new Tensor(skinny(Product::kPairs, *x, *w)); });
}
int xt_has_pairs() { return xplore::has_pairs(); }
}
