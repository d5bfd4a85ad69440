// x · wᵀ + bias, by the kernel for few rows where it applies.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "guard.h"
#include "skinny.h"

using at::Tensor;
using xplore::Product;

namespace {

// Beyond so many rows libtorch's kernels win: the packing they begin with is paid once for all rows.
constexpr int64_t kMostRows = 64;
// Where bf16 numbers are widened, what libtorch has for bf16 is half as fast as what it has for fp32: with many rows it
// pays to widen the weights for that, if they are not so many that the copy weighs.
constexpr int64_t kManyRows = 512, kMostWeights = 32 << 20;

enum class Way { kSkinny, kWidened, kLibtorch };

Way way_for(Product product, const Tensor& x, const Tensor& w) {
  const auto type = x.scalar_type();
  const bool fits = x.device().is_cpu() && x.dim() == 2 && x.size(0) > 0 && x.size(1) % 32 == 0 &&
                    (type == at::kFloat || type == at::kBFloat16) && w.scalar_type() == type && w.is_contiguous() &&
                    !(at::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad()));
  if (!fits || product == Product::kNone) return Way::kLibtorch;
  if (x.size(0) <= kMostRows) return Way::kSkinny;
  if (product != Product::kWidened) return Way::kLibtorch;
  return x.size(0) >= kManyRows && w.numel() <= kMostWeights ? Way::kWidened : Way::kSkinny;
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

// `out`: the dtype of the result; fp32 keeps the sums as they are.
int xt_linear(Tensor* x, Tensor* w, Tensor* bias, int wide_result, Tensor** result) {
  return xplore::guarded([&] {
    const auto type = wide_result ? at::kFloat : x->scalar_type();
    const Product product = xplore::skinny_product(x->scalar_type() == at::kBFloat16);
    const Way way = way_for(product, *x, *w);
    if (way == Way::kLibtorch) {
      *result = new Tensor(at::linear(*x, *w, bias ? c10::optional<Tensor>(*bias) : c10::nullopt).to(type));
      return;
    }
    Tensor y = way == Way::kSkinny ? skinny(product, *x, *w) : at::mm(x->to(at::kFloat), w->to(at::kFloat).t());
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
