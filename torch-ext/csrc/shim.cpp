// The C side of torch-ext. Tensors come and go as `at::Tensor*`, as in torch-sys.
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <malloc.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "guard.h"
#include "kernels.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using xplore::guarded;

std::string& xplore::last_error() {
  thread_local std::string text;
  return text;
}

namespace {

// Rows a thread takes at least: enough floats that the start of a thread does not show.
int64_t grain(int64_t row_floats) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_floats)); }

// bfloat16 on the CPU in a pass without gradients.
template <class... Tensors>
bool plain_bf16(const Tensors&... all) {
  const bool tracked = at::GradMode::is_enabled() && (all.requires_grad() || ...);
  return !tracked && ((all.device().is_cpu() && all.scalar_type() == at::kBFloat16) && ...);
}

const uint16_t* bits(const Tensor& t) { return static_cast<const uint16_t*>(t.const_data_ptr()); }
uint16_t* bits(Tensor& t) { return static_cast<uint16_t*>(t.mutable_data_ptr()); }

// Rows of `dim` numbers side by side: [rows, dim], or [rows, heads, dim] with the heads of a row side by side.
bool even_rows(const Tensor& t) { return t.stride(-1) == 1 && (t.dim() == 2 || t.is_contiguous()); }

Tensor rms_norm_bf16(Tensor x, const Tensor& w, double eps) {
  const int64_t dim = x.size(-1), rows = x.numel() / dim;
  if (!even_rows(x)) x = x.contiguous();
  Tensor y = at::empty(x.sizes(), x.options()), weight = w.contiguous();
  const int64_t stride = x.dim() == 2 ? x.stride(0) : dim;
  at::parallel_for(0, rows, grain(dim), [&](int64_t b, int64_t e) {
    xplore::rms_norm_rows_bf16(bits(x), stride, bits(weight), bits(y), b, e, dim, static_cast<float>(eps));
  });
  return y;
}

Tensor swiglu_bf16(const Tensor& given) {
  Tensor gate_up = given.contiguous();
  const int64_t width = gate_up.size(1) / 2, rows = gate_up.size(0);
  Tensor out = at::empty({rows, width}, gate_up.options());
  at::parallel_for(0, rows, grain(width * 2),
                   [&](int64_t b, int64_t e) { xplore::swiglu_rows_bf16(bits(gate_up), bits(out), b, e, width); });
  return out;
}

Tensor rope_bf16(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t rows = x.size(0), heads = x.size(1), dim = x.size(2);
  Tensor in = x.stride(2) == 1 && x.stride(1) == dim ? x : x.contiguous();
  Tensor y = at::empty({rows, heads, dim}, x.options());
  const float *c = cos.const_data_ptr<float>(), *s = sin.const_data_ptr<float>();
  at::parallel_for(0, rows, grain(heads * dim), [&](int64_t b, int64_t e) {
    xplore::rope_rows_bf16(bits(in), in.stride(0), c, s, bits(y), b, e, heads, dim);
  });
  return y;
}

bool plain_float(const Tensor& t) { return t.device().is_cpu() && t.scalar_type() == at::kFloat; }

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor w, double eps) {
    x = x.contiguous();
    const int64_t dim = x.size(-1), rows = x.numel() / dim;
    Tensor y = at::empty_like(x), inv = at::empty({rows}, x.options());
    const float *xp = x.const_data_ptr<float>(), *wp = w.const_data_ptr<float>();
    float *yp = y.mutable_data_ptr<float>(), *ip = inv.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(dim), [&](int64_t b, int64_t e) {
      xplore::rms_norm_rows(xp, wp, yp, ip, b, e, dim, static_cast<float>(eps));
    });
    ctx->save_for_backward({x, w, inv});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor dy = grads[0].contiguous(), x = saved[0], w = saved[1], inv = saved[2];
    const int64_t dim = x.size(-1), rows = x.numel() / dim;
    // Fixed pieces, each with its own sum for w, so that the result does not depend on which thread took which.
    const int64_t pieces = std::max<int64_t>(1, std::min<int64_t>(64, rows / grain(dim)));
    Tensor dx = at::empty_like(x), dw = at::zeros({pieces, dim}, x.options());
    const float *dyp = dy.const_data_ptr<float>(), *xp = x.const_data_ptr<float>(), *wp = w.const_data_ptr<float>(),
                *ip = inv.const_data_ptr<float>();
    float *dxp = dx.mutable_data_ptr<float>(), *dwp = dw.mutable_data_ptr<float>();
    at::parallel_for(0, pieces, 1, [&](int64_t b, int64_t e) {
      for (int64_t p = b; p < e; ++p)
        xplore::rms_norm_rows_backward(dyp, xp, wp, ip, dxp, dwp + p * dim, rows * p / pieces, rows * (p + 1) / pieces,
                                       dim);
    });
    return {dx, dw.sum(0), Tensor()};
  }
};

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static Tensor forward(AutogradContext* ctx, Tensor gate_up) {
    gate_up = gate_up.contiguous();
    const int64_t width = gate_up.size(1) / 2, rows = gate_up.size(0);
    Tensor out = at::empty({rows, width}, gate_up.options());
    const float* gp = gate_up.const_data_ptr<float>();
    float* op = out.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(width * 2),
                     [&](int64_t b, int64_t e) { xplore::swiglu_rows(gp, op, b, e, width); });
    ctx->save_for_backward({gate_up});
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Tensor gate_up = ctx->get_saved_variables()[0], dout = grads[0].contiguous();
    const int64_t width = gate_up.size(1) / 2, rows = gate_up.size(0);
    Tensor d = at::empty_like(gate_up);
    const float *dp = dout.const_data_ptr<float>(), *gp = gate_up.const_data_ptr<float>();
    float* out = d.mutable_data_ptr<float>();
    at::parallel_for(0, rows, grain(width * 2),
                     [&](int64_t b, int64_t e) { xplore::swiglu_rows_backward(dp, gp, out, b, e, width); });
    return {d};
  }
};

Tensor rope_plain(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
  const int64_t half = x.size(-1) / 2;
  Tensor c = cos.unsqueeze(1).to(x.scalar_type()), s = sin.unsqueeze(1).to(x.scalar_type()) * sign;
  Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  return at::cat({a * c - b * s, b * c + a * s}, -1);
}

Tensor rope_apply(const Tensor& x, const Tensor& cos, const Tensor& sin, float sign) {
  const int64_t rows = x.size(0), heads = x.size(1), dim = x.size(2);
  Tensor in = x.stride(2) == 1 && x.stride(1) == dim ? x : x.contiguous();
  Tensor y = at::empty({rows, heads, dim}, x.options());
  const int64_t stride = in.stride(0);
  const float *xp = in.const_data_ptr<float>(), *cp = cos.const_data_ptr<float>(), *sp = sin.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  at::parallel_for(0, rows, grain(heads * dim), [&](int64_t b, int64_t e) {
    xplore::rope_rows(xp, stride, cp, sp, yp, b, e, heads, dim, sign);
  });
  return y;
}

struct Rope : torch::autograd::Function<Rope> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor cos, Tensor sin) {
    ctx->save_for_backward({cos, sin});
    return rope_apply(x, cos, sin, 1.0f);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    return {rope_apply(grads[0], saved[0], saved[1], -1.0f), Tensor(), Tensor()};
  }
};

// [tokens, heads, dim] of one sequence -> [1, heads, length, dim], a view.
Tensor as_batch(const Tensor& packed, int64_t begin, int64_t end) {
  return packed.narrow(0, begin, end - begin).unsqueeze(0).transpose(1, 2);
}

// Causal attention inside each sequence of a packed batch, by libtorch's flash kernel for the CPU.
struct VarlenAttention : torch::autograd::Function<VarlenAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor q, Tensor k, Tensor v, std::vector<int64_t> cu, double scale) {
    const auto n = static_cast<int64_t>(cu.size()) - 1;
    Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    variable_list saved{q, k, v, out};
    for (int64_t s = 0; s < n; ++s) {
      auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
          as_batch(q, cu[s], cu[s + 1]), as_batch(k, cu[s], cu[s + 1]), as_batch(v, cu[s], cu[s + 1]), 0.0, true,
          std::nullopt, scale);
      as_batch(out, cu[s], cu[s + 1]).copy_(o);
      saved.push_back(lse);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["cu"] = cu;
    ctx->saved_data["scale"] = scale;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor q = saved[0], k = saved[1], v = saved[2], out = saved[3], dout = grads[0].contiguous();
    const auto cu = ctx->saved_data["cu"].toIntVector();
    const double scale = ctx->saved_data["scale"].toDouble();
    auto like = [](const Tensor& t) { return at::empty({t.size(0), t.size(1), t.size(2)}, t.options()); };
    Tensor dq = like(q), dk = like(k), dv = like(v);
    for (size_t s = 0; s + 1 < cu.size(); ++s) {
      const int64_t b = cu[s], e = cu[s + 1];
      auto [a, c, d] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          as_batch(dout, b, e), as_batch(q, b, e), as_batch(k, b, e), as_batch(v, b, e), as_batch(out, b, e),
          saved[4 + s], 0.0, true, std::nullopt, scale);
      as_batch(dq, b, e).copy_(a);
      as_batch(dk, b, e).copy_(c);
      as_batch(dv, b, e).copy_(d);
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

// The same by operations every device has.
Tensor varlen_attention_plain(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                              double scale) {
  std::vector<Tensor> out;
  for (size_t s = 0; s + 1 < cu.size(); ++s) {
    const int64_t b = cu[s], e = cu[s + 1];
    out.push_back(at::scaled_dot_product_attention(as_batch(q, b, e), as_batch(k, b, e), as_batch(v, b, e),
                                                   std::nullopt, 0.0, true, scale)
                      .transpose(1, 2)
                      .squeeze(0));
  }
  return at::cat(out, 0);
}

Tensor repeat_heads(const Tensor& kv, int64_t heads) {
  return kv.size(1) == heads ? kv : kv.repeat_interleave(heads / kv.size(1), 1);
}

}  // namespace

extern "C" {

const char* xt_last_error() { return xplore::last_error().c_str(); }

// Large tensors come and go every step; giving their pages back to the system and faulting them in again costs a
// third of a small model's step.
void xt_keep_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

// Calls f(data, i) for every i below n, on libtorch's threads.
void xt_each(int64_t n, void (*f)(void*, int64_t), void* data) {
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(data, i);
  });
}

// Brings in libtorch's CUDA half, which the linker drops because nothing names its symbols.
int xt_load_cuda() {
  return guarded([&] {
    if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  });
}

int xt_grad(Tensor** outputs, int n_outputs, Tensor** grad_outputs, Tensor** inputs, int n_inputs, Tensor** result) {
  return guarded([&] {
    variable_list out, dout, in;
    for (int i = 0; i < n_outputs; ++i) {
      out.push_back(*outputs[i]);
      dout.push_back(*grad_outputs[i]);
    }
    for (int i = 0; i < n_inputs; ++i) in.push_back(*inputs[i]);
    auto grads = torch::autograd::grad(out, in, dout);
    for (int i = 0; i < n_inputs; ++i) result[i] = new Tensor(grads[i]);
  });
}

int xt_rms_norm(Tensor* x, Tensor* w, double eps, Tensor** result) {
  return guarded([&] {
    if (plain_float(*x) && plain_float(*w)) {
      *result = new Tensor(RmsNorm::apply(*x, *w, eps));
    } else if (plain_bf16(*x, *w)) {
      *result = new Tensor(rms_norm_bf16(*x, *w, eps));
    } else {
      Tensor wide = x->to(at::kFloat);
      Tensor y = wide * at::rsqrt(wide.pow(2).mean(-1, true) + eps);
      *result = new Tensor(y.to(x->scalar_type()) * *w);
    }
  });
}

int xt_swiglu(Tensor* gate_up, Tensor** result) {
  return guarded([&] {
    if (plain_float(*gate_up)) {
      *result = new Tensor(SwiGlu::apply(*gate_up));
    } else if (plain_bf16(*gate_up)) {
      *result = new Tensor(swiglu_bf16(*gate_up));
    } else {
      auto halves = gate_up->chunk(2, 1);
      *result = new Tensor(at::silu(halves[0]) * halves[1]);
    }
  });
}

int xt_rope(Tensor* x, Tensor* cos, Tensor* sin, Tensor** result) {
  return guarded([&] {
    *result = new Tensor(plain_float(*x)  ? Rope::apply(*x, *cos, *sin)
                         : plain_bf16(*x) ? rope_bf16(*x, *cos, *sin)
                                          : rope_plain(*x, *cos, *sin, 1.0f));
  });
}

int xt_varlen_attention(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, double scale, Tensor** result) {
  return guarded([&] {
    std::vector<int64_t> bounds(cu, cu + n_cu);
    Tensor keys = repeat_heads(*k, q->size(1)), values = repeat_heads(*v, q->size(1));
    *result = new Tensor(q->device().is_cpu() ? VarlenAttention::apply(*q, keys, values, bounds, scale)
                                              : varlen_attention_plain(*q, keys, values, bounds, scale));
  });
}

int xt_fused_adamw(Tensor* param, Tensor* grad, Tensor* exp_avg, Tensor* exp_avg_sq, double lr, double beta1,
                   double beta2, double weight_decay, double eps, double step) {
  return guarded([&] {
    torch::NoGradGuard no_grad;
    std::vector<Tensor> p{*param}, g{*grad}, m{*exp_avg}, v{*exp_avg_sq}, unused;
    std::vector<Tensor> steps{at::full({}, step, at::TensorOptions().dtype(at::kFloat).device(param->device()))};
    at::_fused_adamw_(p, g, m, v, unused, steps, lr, beta1, beta2, weight_decay, eps, false, false);
  });
}
}
