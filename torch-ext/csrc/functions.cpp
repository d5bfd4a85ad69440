// The operations of a decoder layer and their backward passes. A weight comes with an optional gradient buffer: the
// backward pass adds to the buffer in place, and no gradient of the weight goes through autograd. Without a buffer, the
// gradient goes to autograd if the weight requires it.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "gpu/launch.h"
#include "guard.h"
#include "kernels.h"
#include "tensor_data.h"
#include "products.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using xplore::bits;
using xplore::floats;
using xplore::guarded;

namespace {

// Minimum number of rows per thread, so that the cost of starting a thread is negligible.
int64_t grain(int64_t row_numbers) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_numbers)); }

// A fixed partition of the rows, each part with its own partial sum for a weight, so that the result does not depend on
// the assignment of parts to threads.
int64_t pieces_of(int64_t rows, int64_t dim) { return std::max<int64_t>(1, std::min<int64_t>(64, rows / grain(dim))); }

bool is_bf16(const Tensor& t) { return t.scalar_type() == at::kBFloat16; }

// Whether all tensors are on the CPU in one dtype, fp32 or bf16, as the loops of kernels.h require.
template <class... Tensors>
bool for_loops(const Tensor& first, const Tensors&... rest) {
  const auto type = first.scalar_type();
  const auto fits = [&](const Tensor& t) { return t.device().is_cpu() && t.scalar_type() == type; };
  return (type == at::kFloat || type == at::kBFloat16) && fits(first) && (fits(rest) && ...);
}

// Whether the kernels of gpu/layer.cu support these tensors: rows of `dim` elements that can be moved four at a time.
template <class... Tensors>
bool for_gpu(int64_t dim, const Tensor& first, const Tensors&... rest) {
  const auto fits = [&](const Tensor& t) {
    const bool aligned = reinterpret_cast<uintptr_t>(t.const_data_ptr()) % (4 * t.element_size()) == 0;
    return t.device() == first.device() && t.scalar_type() == first.scalar_type() && aligned;
  };
  return xplore::has_gpu_kernels(first) && dim % 4 == 0 && fits(first) && (fits(rest) && ...);
}
// Number of parts of the rows that have their own partial sum on a GPU.
int64_t gpu_pieces(int64_t rows) { return std::max<int64_t>(1, std::min<int64_t>(xplore::kPieces, rows / 16)); }
const void* pointer(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// An optional tensor. (autograd Functions do not accept undefined tensors.)
using Maybe = std::optional<Tensor>;
Maybe maybe(const Tensor* t) { return t ? Maybe(*t) : std::nullopt; }
Tensor or_none(const Maybe& t) { return t ? *t : Tensor(); }

// Adds a weight's gradient to its buffer, or returns it to autograd.
Tensor deliver(Tensor buffer, const Tensor& gradient) {
  if (!buffer.defined()) return gradient;
  buffer.add_(gradient);
  return Tensor();
}

// Buffers change between the forward and backward pass on purpose, which autograd forbids for tensors it saves itself.
void keep(AutogradContext* ctx, const char* name, const Maybe& buffer) {
  if (buffer) ctx->saved_data[name] = *buffer;
}
Tensor kept(AutogradContext* ctx, const char* name) {
  auto found = ctx->saved_data.find(name);
  return found == ctx->saved_data.end() ? Tensor() : found->second.toTensor();
}

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor w, Maybe dw, double eps) {
    x = x.contiguous();
    const int64_t dim = x.size(-1), rows = x.numel() / dim;
    Tensor y = at::empty_like(x), inv = at::empty({rows}, x.options().dtype(at::kFloat));
    float* scales = floats(inv);
    if (for_gpu(dim, x, w))
      xplore::launch(x, "rms_norm", xplore::warps(rows), xplore::kThreads, pointer(x), pointer(w), pointer(y), scales,
                     rows, dim, static_cast<float>(eps));
    else
      at::parallel_for(0, rows, grain(dim), [&](int64_t b, int64_t e) {
        if (is_bf16(x))
          xplore::rms_norm_rows_bf16(bits(x), dim, bits(w), bits(y), scales, b, e, dim, static_cast<float>(eps));
        else
          xplore::rms_norm_rows(floats(x), floats(w), floats(y), scales, b, e, dim, static_cast<float>(eps));
      });
    ctx->save_for_backward({x, w, inv});
    ctx->saved_data["wanted"] = dw || w.requires_grad();
    keep(ctx, "dw", dw);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor dy = grads[0].contiguous(), x = saved[0], w = saved[1], inv = saved[2];
    const int64_t dim = x.size(-1), rows = x.numel() / dim;
    if (!x.device().is_cpu() && !for_gpu(dim, dy)) dy = dy.clone();  // not aligned
    const bool wanted = ctx->saved_data["wanted"].toBool(), gpu = for_gpu(dim, x, w, dy);
    TORCH_CHECK(gpu || x.device().is_cpu(), "rms_norm: its gradient is not on the device of its input");
    const int64_t pieces = gpu ? gpu_pieces(rows) : pieces_of(rows, dim);
    Tensor dx = at::empty_like(x), dw = at::zeros({wanted ? pieces : 0, dim}, inv.options());
    float* sums = wanted ? floats(dw) : nullptr;
    if (gpu) {
      xplore::launch(x, "rms_norm_input", xplore::warps(rows), xplore::kThreads, pointer(dy), pointer(x), pointer(w),
                     pointer(inv), pointer(dx), rows, dim);
      if (wanted)
        xplore::launch(x, "rms_norm_weight", {xplore::threads(dim).x, pieces}, xplore::kThreads, pointer(dy),
                       pointer(x), pointer(inv), sums, rows, dim);
    }
    at::parallel_for(0, gpu ? 0 : pieces, 1, [&](int64_t b, int64_t e) {
      for (int64_t p = b; p < e; ++p) {
        const int64_t from = rows * p / pieces, to = rows * (p + 1) / pieces;
        float* sum = wanted ? sums + p * dim : nullptr;
        if (is_bf16(x))
          xplore::rms_norm_rows_backward(bits(dy), bits(x), bits(w), floats(inv), bits(dx), sum, from, to, dim);
        else
          xplore::rms_norm_rows_backward(floats(dy), floats(x), floats(w), floats(inv), floats(dx), sum, from, to, dim);
      }
    });
    Tensor given = wanted ? deliver(kept(ctx, "dw"), dw.sum(0)) : Tensor();
    return {dx, given.defined() ? given.to(w.scalar_type()) : given, Tensor(), Tensor()};
  }
};

// Saves what the backward pass of a product needs besides its input.
void keep_product(AutogradContext* ctx, const Maybe& bias, const Maybe& dw, const Maybe& dbias) {
  ctx->saved_data["bias"] = bias && (dbias || bias->requires_grad());
  keep(ctx, "dw", dw);
  keep(ctx, "dbias", dbias);
}
Tensor with_bias(const Tensor& x, const Tensor& w, const Maybe& bias) {
  Tensor y = xplore::product(x, w, bias.has_value());
  return bias ? y.add_(*bias).to(x.scalar_type()) : y;
}
// Computes the gradients of weight and bias, and adds them to their buffers or returns them. x is undefined if the
// weight needs no gradient.
std::pair<Tensor, Tensor> parameter_gradients(AutogradContext* ctx, const Tensor& dy, const Tensor& x,
                                              const Tensor& w) {
  Tensor dw, dbias;
  if (x.defined()) {
    Tensor buffer = kept(ctx, "dw");
    dw = buffer.defined() ? buffer : at::zeros_like(w);
    xplore::add_weight_gradient(dw, dy, x);
    if (buffer.defined()) dw = Tensor();
  }
  if (ctx->saved_data["bias"].toBool()) {
    dbias = deliver(kept(ctx, "dbias"), dy.sum(0, false, at::kFloat));
    if (dbias.defined()) dbias = dbias.to(w.scalar_type());
  }
  return {dw, dbias};
}

struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor w, Maybe bias, Maybe dw, Maybe dbias) {
    const bool wanted = dw || w.requires_grad();
    ctx->save_for_backward({wanted ? x : Tensor(), w});
    keep_product(ctx, bias, dw, dbias);
    return with_bias(x, w, bias);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor dy = xplore::for_backward(grads[0]), &w = saved[1];
    auto [dw, dbias] = parameter_gradients(ctx, dy, saved[0], w);
    return {ctx->needs_input_grad(0) ? xplore::input_gradient(dy, w) : Tensor(), dw, dbias, Tensor(), Tensor()};
  }
};

Tensor swiglu(Tensor gate_up) {
  if (const int64_t width = gate_up.size(1) / 2; for_gpu(width, gate_up)) {
    gate_up = gate_up.contiguous();
    const int64_t rows = gate_up.size(0);
    Tensor out = at::empty({rows, width}, gate_up.options());
    xplore::launch(out, "swiglu", xplore::threads(rows * width / 4), xplore::kThreads, pointer(gate_up), pointer(out),
                   rows, width);
    return out;
  }
  if (!for_loops(gate_up)) {
    auto halves = gate_up.chunk(2, 1);
    return at::silu(halves[0]) * halves[1];
  }
  gate_up = gate_up.contiguous();
  const int64_t width = gate_up.size(1) / 2, rows = gate_up.size(0);
  Tensor out = at::empty({rows, width}, gate_up.options());
  at::parallel_for(0, rows, grain(width * 2), [&](int64_t b, int64_t e) {
    if (is_bf16(gate_up))
      xplore::swiglu_rows_bf16(bits(gate_up), bits(out), b, e, width);
    else
      xplore::swiglu_rows(floats(gate_up), floats(out), b, e, width);
  });
  return out;
}

Tensor swiglu_gradient(Tensor dout, Tensor gate_up) {
  if (const int64_t width = gate_up.size(1) / 2; for_gpu(width, gate_up, dout)) {
    dout = dout.contiguous(), gate_up = gate_up.contiguous();
    const int64_t rows = gate_up.size(0);
    Tensor d = at::empty_like(gate_up);
    xplore::launch(d, "swiglu_input", xplore::threads(rows * width / 4), xplore::kThreads, pointer(dout),
                   pointer(gate_up), pointer(d), rows, width);
    return d;
  }
  if (!for_loops(dout, gate_up)) {
    auto halves = gate_up.chunk(2, 1);
    return at::cat({at::silu_backward(dout * halves[1], halves[0]), dout * at::silu(halves[0])}, 1);
  }
  dout = dout.contiguous(), gate_up = gate_up.contiguous();
  const int64_t width = gate_up.size(1) / 2, rows = gate_up.size(0);
  Tensor d = at::empty_like(gate_up);
  at::parallel_for(0, rows, grain(width * 2), [&](int64_t b, int64_t e) {
    if (is_bf16(gate_up))
      xplore::swiglu_rows_backward(bits(dout), bits(gate_up), bits(d), b, e, width);
    else
      xplore::swiglu_rows_backward(floats(dout), floats(gate_up), floats(d), b, e, width);
  });
  return d;
}

struct SwiGlu : Function<SwiGlu> {
  static Tensor forward(AutogradContext* ctx, Tensor gate_up) {
    ctx->save_for_backward({gate_up});
    return swiglu(gate_up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {swiglu_gradient(grads[0], ctx->get_saved_variables()[0])};
  }
};

// A product that recomputes its input in the backward pass instead of saving it: this costs one read of gate_up, and
// saves half of gate_up's memory in every layer.
struct SwiGluLinear : Function<SwiGluLinear> {
  static Tensor forward(AutogradContext* ctx, Tensor gate_up, Tensor w, Maybe bias, Maybe dw, Maybe dbias) {
    ctx->save_for_backward({gate_up, w});
    ctx->saved_data["wanted"] = dw || w.requires_grad();
    keep_product(ctx, bias, dw, dbias);
    return with_bias(swiglu(gate_up), w, bias);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor dy = xplore::for_backward(grads[0]), &gate_up = saved[0], &w = saved[1];
    const bool wanted = ctx->saved_data["wanted"].toBool();
    auto [dw, dbias] = parameter_gradients(ctx, dy, wanted ? swiglu(gate_up) : Tensor(), w);
    Tensor d = ctx->needs_input_grad(0) ? swiglu_gradient(xplore::input_gradient(dy, w), gate_up) : Tensor();
    return {d, dw, dbias, Tensor(), Tensor()};
  }
};

Tensor rms_norm_plain(const Tensor& x, const Tensor& w, double eps) {
  Tensor wide = x.to(at::kFloat);
  return (wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps)).to(x.scalar_type()) * w;
}

// An identity whose backward pass adds the gradient to the buffer: for operations that autograd differentiates itself.
struct Sink : Function<Sink> {
  static Tensor forward(AutogradContext* ctx, Tensor w, Tensor anchor, Tensor dw) {
    keep(ctx, "dw", dw);
    return w.view_as(w);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    kept(ctx, "dw").add_(grads[0]);
    return {Tensor(), Tensor(), Tensor()};
  }
};

// Returns `w`, connected to autograd through `anchor`, which requires a gradient.
Tensor with_sink(const Tensor& w, const Tensor& anchor, const Tensor* dw) {
  return dw && anchor.requires_grad() ? Sink::apply(w, anchor, *dw) : w;
}

// Fallback of operations that every device supports. In pieces, because libtorch copies its input to sum it in double
// precision.
double sum_of_squares_plain(const Tensor& x) {
  constexpr int64_t kPiece = 1 << 22;
  Tensor sum = at::zeros({}, x.options().dtype(at::kDouble));
  for (int64_t from = 0; from < x.numel(); from += kPiece) {
    const Tensor piece = x.narrow(0, from, std::min(kPiece, x.numel() - from)).to(at::kDouble);
    sum.add_(at::dot(piece, piece));
  }
  return sum.item<double>();
}

// Fallback of operations that every device supports. The rows of a repeated token are summed in fp32, in the order of
// the tokens, before they are added to its gradient: in bf16 a large sum absorbs small addends, and concurrent
// additions have no defined order.
void embedding_backward_plain(const Tensor& dy, const Tensor& ids, Tensor& grad) {
  if (ids.numel() == 0) return;
  const auto wide = at::promote_types(dy.scalar_type(), at::kFloat);
  const auto [sorted, order] = at::sort(ids, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const auto [rows, inverse, counts] = at::unique_consecutive(sorted, /*return_inverse=*/false, /*return_counts=*/true);
  const Tensor sums =
      at::segment_reduce(dy.index_select(0, order).to(wide), "sum", counts, /*indices=*/{}, /*offsets=*/{},
                         /*axis=*/0, /*unsafe=*/true);
  grad.index_copy_(0, rows, (grad.index_select(0, rows).to(wide) + sums).to(grad.scalar_type()));
}

}  // namespace

extern "C" {

int xt_rms_norm(Tensor* x, Tensor* w, Tensor* dw, double eps, Tensor** result) {
  return guarded([&] {
    *result =
        new Tensor(for_loops(*x, *w) || for_gpu(x->size(-1), *x, *w) ? RmsNorm::apply(*x, *w, maybe(dw), eps)
                                                                     : rms_norm_plain(*x, with_sink(*w, *x, dw), eps));
  });
}

int xt_swiglu(Tensor* gate_up, Tensor** result) {
  return guarded([&] { *result = new Tensor(SwiGlu::apply(*gate_up)); });
}

int xt_linear_train(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, Tensor** result) {
  return guarded([&] { *result = new Tensor(Linear::apply(*x, *w, maybe(bias), maybe(dw), maybe(dbias))); });
}

int xt_linear(Tensor* x, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, int wide_result, Tensor** result);

int xt_swiglu_linear(Tensor* gate_up, Tensor* w, Tensor* bias, Tensor* dw, Tensor* dbias, Tensor** result) {
  if (!at::GradMode::is_enabled() || !(gate_up->requires_grad() || w->requires_grad())) {
    Tensor gated;
    const int failed = guarded([&] { gated = swiglu(*gate_up); });
    return failed ? failed : xt_linear(&gated, w, bias, dw, dbias, 0, result);
  }
  return guarded(
      [&] { *result = new Tensor(SwiGluLinear::apply(*gate_up, *w, maybe(bias), maybe(dw), maybe(dbias))); });
}

int xt_input_gradient(Tensor* dy, Tensor* w, Tensor** result) {
  return guarded([&] { *result = new Tensor(xplore::input_gradient(*dy, *w)); });
}

int xt_add_weight_gradient(Tensor* grad, Tensor* dy, Tensor* x) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    xplore::add_weight_gradient(*grad, *dy, *x);
  });
}

// x must be contiguous.
int xt_sum_of_squares(Tensor* x, double* result) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (!for_loops(*x)) {
      *result = sum_of_squares_plain(x->flatten());
      return;
    }
    // A fixed partition, so that the sum does not depend on the number of threads.
    constexpr int64_t kPiece = 1 << 16;
    const int64_t n = x->numel(), pieces = (n + kPiece - 1) / kPiece;
    std::vector<double> sums(pieces);
    at::parallel_for(0, pieces, 1, [&](int64_t b, int64_t e) {
      for (int64_t p = b; p < e; ++p) {
        const int64_t from = p * kPiece, to = std::min(n, from + kPiece);
        sums[p] =
            is_bf16(*x) ? xplore::sum_of_squares(bits(*x), from, to) : xplore::sum_of_squares(floats(*x), from, to);
      }
    });
    *result = std::accumulate(sums.begin(), sums.end(), 0.0);
  });
}

int xt_dropout_mask(Tensor* mask, double probability, uint64_t seed) {
  return guarded([&] {
    float* numbers = floats(*mask);
    at::parallel_for(0, mask->numel(), 16384, [&](int64_t b, int64_t e) {
      xplore::dropout_mask(numbers, static_cast<float>(probability), seed, b, e);
    });
  });
}

// grad[ids[t]] += dy[t].
int xt_embedding_backward(Tensor* dy, Tensor* ids, Tensor* grad) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const int64_t tokens = dy->size(0), width = dy->size(1);
    const bool loops = for_loops(*dy) && (grad->scalar_type() == at::kFloat || is_bf16(*grad)) &&
                       !(dy->scalar_type() == at::kFloat && is_bf16(*grad));
    if (!loops) {
      embedding_backward_plain(*dy, *ids, *grad);
      return;
    }
    const Tensor d = dy->contiguous();
    const int64_t* at = ids->const_data_ptr<int64_t>();
    // Threads split the columns, so that no two threads write the same element and sums follow the order of the tokens.
    at::parallel_for(0, width, 32, [&](int64_t b, int64_t e) {
      if (!is_bf16(d))
        xplore::embedding_backward(floats(d), at, tokens, floats(*grad), width, b, e);
      else if (is_bf16(*grad))
        xplore::embedding_backward(bits(d), at, tokens, bits(*grad), width, b, e);
      else
        xplore::embedding_backward(bits(d), at, tokens, floats(*grad), width, b, e);
    });
  });
}
}
