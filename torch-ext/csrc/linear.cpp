// x · wᵀ + bias, by the kernel for few rows where it applies.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include "guard.h"
#include "skinny.h"

using at::Tensor;

namespace {

// Beyond so many rows libtorch's kernels win: the packing they begin with is paid once for all rows.
constexpr int64_t kMostRows = 64;

bool is_skinny(const Tensor& x, const Tensor& w) {
  const auto type = x.scalar_type();
  return xplore::has_skinny_kernel() && x.device().is_cpu() && x.dim() == 2 && x.size(0) <= kMostRows &&
         x.size(1) % 32 == 0 && (type == at::kFloat || type == at::kBFloat16) && w.scalar_type() == type &&
         w.is_contiguous() && !(at::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad()));
}

inline float number(float x) { return x; }
inline float number(at::BFloat16 x) { return static_cast<float>(x); }

// x in the order that the kernel reads it.
template <class T>
void bundle(const T* x, float* out, int64_t m, int64_t k, bool even_first) {
  for (int64_t row = 0, rows; row < m; row += rows) {
    rows = xplore::skinny_rows(m, row);
    float* to = out + row * k;
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = x + (row + r) * k;
      for (int64_t i = 0; i < k; i += 32) {
        float* a = to + i * rows + r * 16;
        float* b = a + rows * 16;
        for (int64_t j = 0; j < 16; ++j) {
          a[j] = number(from[even_first ? i + 2 * j : i + j]);
          b[j] = number(from[even_first ? i + 2 * j + 1 : i + 16 + j]);
        }
      }
    }
  }
}

Tensor skinny(const Tensor& given, const Tensor& w) {
  const Tensor x = given.contiguous();
  const int64_t m = x.size(0), k = x.size(1), n = w.size(0);
  const bool wide = x.scalar_type() == at::kFloat;
  Tensor xf = at::empty({m, k}, x.options().dtype(at::kFloat));
  if (wide)
    bundle(x.const_data_ptr<float>(), xf.mutable_data_ptr<float>(), m, k, false);
  else
    bundle(x.const_data_ptr<at::BFloat16>(), xf.mutable_data_ptr<float>(), m, k, true);
  Tensor y = at::empty({m, n}, xf.options());
  const float* xp = xf.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  const void* wp = w.const_data_ptr();
  const int64_t grain = std::max<int64_t>(6, 65536 / std::max<int64_t>(1, m * k));
  at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    if (wide)
      xplore::skinny_f32(xp, static_cast<const float*>(wp), yp, m, k, begin, end, n);
    else
      xplore::skinny_bf16(xp, static_cast<const uint16_t*>(wp), yp, m, k, begin, end, n);
  });
  return y;
}

}  // namespace

extern "C" {

// `out`: the dtype of the result; fp32 keeps the sums as they are.
int xt_linear(Tensor* x, Tensor* w, Tensor* bias, int wide_result, Tensor** result) {
  return xplore::guarded([&] {
    const auto type = wide_result ? at::kFloat : x->scalar_type();
    if (is_skinny(*x, *w)) {
      Tensor y = skinny(*x, *w);
      if (bias) y.add_(*bias);
      *result = new Tensor(y.to(type));
    } else {
      *result = new Tensor(at::linear(*x, *w, bias ? c10::optional<Tensor>(*bias) : c10::nullopt).to(type));
    }
  });
}
}
