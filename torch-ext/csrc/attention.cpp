// Causal attention inside each sequence of a packed batch.
#include <torch/torch.h>

#include "guard.h"
#include "skinny.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

// Tokens [begin, end) of packed [tokens, heads, dim] as a batch of one, [1, heads, length, dim], in the format in which this
// CPU multiplies fastest; a view if that is its own.
Tensor as_batch(const Tensor& packed, int64_t begin, int64_t end) {
  static const bool fast = xplore::bf16_is_fast();
  const Tensor part = packed.narrow(0, begin, end - begin);
  const bool widens = part.scalar_type() != at::kDouble && !(fast && part.scalar_type() == at::kBFloat16);
  return (widens ? part.to(at::kFloat) : part).unsqueeze(0).transpose(1, 2);
}

// Keys or values of one sequence, each head repeated for the queries that share it.
Tensor repeated(const Tensor& packed, int64_t begin, int64_t end, int64_t heads) {
  const Tensor batch = as_batch(packed, begin, end);
  const int64_t kv = batch.size(1), length = end - begin, dim = batch.size(3);
  if (kv == heads) return batch;
  return batch.unsqueeze(2).expand({1, kv, heads / kv, length, dim}).reshape({1, heads, length, dim});
}

// Writes [1, heads, length, dim] to tokens [begin, ..) of packed; heads that share a key are summed.
void put(Tensor& packed, int64_t begin, const Tensor& batch) {
  const int64_t heads = batch.size(1), kv = packed.size(1), length = batch.size(2), dim = batch.size(3);
  const Tensor summed = heads == kv ? batch.squeeze(0) : batch.reshape({kv, heads / kv, length, dim}).sum(1);
  packed.narrow(0, begin, length).copy_(summed.transpose(0, 1));
}

// By libtorch's flash kernel for the CPU.
struct VarlenAttention : torch::autograd::Function<VarlenAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor q, Tensor k, Tensor v, std::vector<int64_t> cu, double scale) {
    const int64_t n = static_cast<int64_t>(cu.size()) - 1, heads = q.size(1);
    Tensor out = at::empty({q.size(0), heads, q.size(2)}, q.options());
    variable_list saved{q, k, v, out};
    for (int64_t s = 0; s < n; ++s) {
      const int64_t b = cu[s], e = cu[s + 1];
      auto [o, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
          as_batch(q, b, e), repeated(k, b, e, heads), repeated(v, b, e, heads), 0.0, true, std::nullopt, scale);
      put(out, b, o);
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
    const int64_t heads = q.size(1);
    auto like = [](const Tensor& t) { return at::empty({t.size(0), t.size(1), t.size(2)}, t.options()); };
    Tensor dq = like(q), dk = like(k), dv = like(v);
    for (size_t s = 0; s + 1 < cu.size(); ++s) {
      const int64_t b = cu[s], e = cu[s + 1];
      auto [a, c, d] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          as_batch(dout, b, e), as_batch(q, b, e), repeated(k, b, e, heads), repeated(v, b, e, heads),
          as_batch(out, b, e), saved[4 + s], 0.0, true, std::nullopt, scale);
      put(dq, b, a);
      put(dk, b, c);
      put(dv, b, d);
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

// The same by operations every device has.
Tensor varlen_attention_plain(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                              double scale) {
  const bool grouped = q.size(1) != k.size(1);
  auto batch = [](const Tensor& t, int64_t b, int64_t e) { return t.narrow(0, b, e - b).unsqueeze(0).transpose(1, 2); };
  std::vector<Tensor> out;
  for (size_t s = 0; s + 1 < cu.size(); ++s) {
    const int64_t b = cu[s], e = cu[s + 1];
    out.push_back(at::scaled_dot_product_attention(batch(q, b, e), batch(k, b, e), batch(v, b, e), std::nullopt, 0.0,
                                                   true, scale, grouped)
                      .transpose(1, 2)
                      .squeeze(0));
  }
  return at::cat(out, 0);
}

}  // namespace

extern "C" int xt_varlen_attention(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, double scale,
                                   Tensor** result) {
  return xplore::guarded([&] {
    std::vector<int64_t> bounds(cu, cu + n_cu);
    *result = new Tensor(q->device().is_cpu() ? VarlenAttention::apply(*q, *k, *v, bounds, scale)
                                              : varlen_attention_plain(*q, *k, *v, bounds, scale));
  });
}
