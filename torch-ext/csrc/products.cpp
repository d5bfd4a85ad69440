#include "products.h"

#include "skinny.h"

using at::Tensor;

namespace xplore {

namespace {

// Numbers that a widened copy of weights may hold at once: 32 MiB.
constexpr int64_t kPiece = 8 << 20;

bool widens(const Tensor& x) {
  static const bool fast = bf16_is_fast();
  return x.device().is_cpu() && (x.scalar_type() == at::kHalf || (x.scalar_type() == at::kBFloat16 && !fast));
}

Tensor wide(const Tensor& t) { return t.scalar_type() == at::kFloat ? t : t.to(at::kFloat); }

// Calls f(begin, count) for pieces of the rows of w.
template <class F>
void by_pieces(const Tensor& w, F&& f) {
  const int64_t rows = w.size(0), step = std::max<int64_t>(1, kPiece / std::max<int64_t>(1, w.size(1)));
  for (int64_t begin = 0; begin < rows; begin += step) f(begin, std::min(step, rows - begin));
}

}  // namespace

Tensor product(const Tensor& x, const Tensor& w, bool wide_result) {
  if (!widens(x)) {
    if (!wide_result || x.scalar_type() == at::kFloat) return at::mm(x, w.t());
    return at::mm(x, w.t()).to(at::kFloat);
  }
  const Tensor wide_x = wide(x);
  Tensor y = at::empty({x.size(0), w.size(0)}, x.options().dtype(at::kFloat));
  by_pieces(w, [&](int64_t begin, int64_t count) {
    Tensor part = y.narrow(1, begin, count);
    at::mm_out(part, wide_x, wide(w.narrow(0, begin, count)).t());
  });
  return wide_result ? y : y.to(x.scalar_type());
}

Tensor input_gradient(const Tensor& dy, const Tensor& w) {
  if (!widens(w)) return at::mm(dy.to(w.scalar_type()), w);
  const Tensor wide_dy = wide(dy);
  Tensor dx;
  by_pieces(w, [&](int64_t begin, int64_t count) {
    const Tensor part = wide_dy.narrow(1, begin, count), weights = wide(w.narrow(0, begin, count));
    dx = dx.defined() ? dx.addmm_(part, weights) : at::mm(part, weights);
  });
  return dx.to(w.scalar_type());
}

void add_weight_gradient(Tensor grad, const Tensor& dy, const Tensor& x) {
  if (grad.scalar_type() == x.scalar_type() && dy.scalar_type() == x.scalar_type() && !widens(x)) {
    grad.addmm_(dy.t(), x);
    return;
  }
  if (!widens(x)) {
    grad.add_(at::mm(dy.to(x.scalar_type()).t(), x));
    return;
  }
  const Tensor wide_x = wide(x), wide_dy = wide(dy);
  if (grad.scalar_type() == at::kFloat) {
    grad.addmm_(wide_dy.t(), wide_x);
    return;
  }
  by_pieces(grad, [&](int64_t begin, int64_t count) {
    grad.narrow(0, begin, count).add_(at::mm(wide_dy.narrow(1, begin, count).t(), wide_x));
  });
}

Tensor for_backward(const Tensor& dy) { return widens(dy) ? wide(dy).contiguous() : dy.contiguous(); }

}  // namespace xplore
