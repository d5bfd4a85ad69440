// x · wᵀ + bias, and packed weights for many such products.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "cpu/cpu.h"
#include "guard.h"
#include "products.h"

using at::Tensor;
using xplore::PackedWeight;

extern "C" {

int xt_linear_train(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, Tensor** result);

// wide_result: returns the fp32 sums unrounded, without a backward pass.
int xt_linear(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, int wide_result, Tensor** result) {
  const bool tracked = at::GradMode::is_enabled() && (x->requires_grad() || w->requires_grad());
  if (tracked && !wide_result) return xt_linear_train(x, w, bias, dw, dbias, result);
  return xplore::guarded([&] {
    Tensor y = xplore::product(*x, *w, wide_result || bias);
    if (bias) y.add_(*bias);
    *result = new Tensor(y.to(wide_result ? at::kFloat : x->scalar_type()));
  });
}

int xt_pack_weight(Tensor* w, PackedWeight** result) {
  return xplore::guarded([&] { *result = new PackedWeight(*w); });
}
void xt_free_packed_weight(PackedWeight* w) { delete w; }

// x [m, k], of the weight's dtype (fp32 or bf16) → x · wᵀ, fp32.
int xt_packed_linear(Tensor* x, PackedWeight* w, Tensor** result) {
  return xplore::guarded([&] {
    const Tensor wide = x->to(at::kFloat).contiguous();
    Tensor y = at::empty({x->size(0), w->n}, wide.options());
    w->multiply(wide.const_data_ptr<float>(), w->k, y.mutable_data_ptr<float>(), x->size(0));
    *result = new Tensor(y);
  });
}

// The CPU level in use (cpu/cpu.h).
int xt_cpu_level(int* level) {
  return xplore::guarded([&] { *level = static_cast<int>(xplore::cpu_level()); });
}
// Returns 0 if the level is invalid.
int xt_library_multiplies_bf16() {
  int found = 0;
  xplore::guarded([&] { found = xplore::library_multiplies_bf16(); });
  return found;
}
}
