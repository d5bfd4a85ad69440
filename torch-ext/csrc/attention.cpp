// Causal attention inside each sequence of a packed batch.
#include <torch/torch.h>

#include "guard.h"
#include "packed_attention.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using xplore::Packed;
using xplore::Range;

namespace {

// By libtorch's flash kernel for the CPU.
struct VarlenAttention : torch::autograd::Function<VarlenAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor q, Tensor k, Tensor v, std::vector<int64_t> cu, double scale) {
    const Packed packed{q, k, v, scale};
    Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    variable_list saved{q, k, v, out};
    for (size_t s = 0; s + 1 < cu.size(); ++s) {
      const Range own{cu[s], cu[s + 1]};
      auto [o, lse] = packed.attend(own, own);
      xplore::put(out, own.begin, o);
      saved.push_back(lse);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["cu"] = cu;
    ctx->saved_data["scale"] = scale;
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Packed packed{saved[0], saved[1], saved[2], ctx->saved_data["scale"].toDouble()};
    Tensor out = saved[3], dout = grads[0].contiguous();
    const auto cu = ctx->saved_data["cu"].toIntVector();
    auto like = [](const Tensor& t) { return at::empty({t.size(0), t.size(1), t.size(2)}, t.options()); };
    Tensor dq = like(packed.q), dk = like(packed.k), dv = like(packed.v);
    for (size_t s = 0; s + 1 < cu.size(); ++s) {
      const Range own{cu[s], cu[s + 1]};
      auto [a, b, c] = packed.attend_backward(own, own, dout, out, saved[4 + s]);
      xplore::put(dq, own.begin, a);
      xplore::put(dk, own.begin, b);
      xplore::put(dv, own.begin, c);
    }
    return {dq, dk, dv, Tensor(), Tensor()};
  }
};

// Whether libtorch's flash kernel for GPUs takes these, all sequences at once. (Not tried on a GPU yet: scripts/gpu-check.)
bool for_flash(const Tensor& q) {
  const bool half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return q.is_cuda() && half && q.size(2) % 8 == 0 && q.size(2) <= 256;
}

Tensor varlen_attention_flash(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                              double scale) {
  int64_t longest = 0;
  for (size_t s = 0; s + 1 < cu.size(); ++s) longest = std::max(longest, cu[s + 1] - cu[s]);
  const Tensor ends = at::tensor(cu, at::kInt).to(q.device(), /*non_blocking=*/true);
  return std::get<0>(at::_flash_attention_forward(q, k, v, ends, ends, longest, longest, /*dropout_p=*/0.0,
                                                  /*is_causal=*/true, /*return_debug_mask=*/false, scale));
}

// By operations every device has. prefix_of is empty where no segment continues another.
Tensor varlen_attention_plain(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                              const std::vector<int64_t>& prefix_of, double scale) {
  const bool grouped = q.size(1) != k.size(1);
  auto batch = [](const Tensor& t, int64_t b, int64_t e) { return t.narrow(0, b, e - b).unsqueeze(0).transpose(1, 2); };
  std::vector<Tensor> out;
  for (size_t s = 0; s + 1 < cu.size(); ++s) {
    const int64_t b = cu[s], e = cu[s + 1], prefix = prefix_of.empty() ? -1 : prefix_of[s];
    Tensor keys = batch(k, b, e), values = batch(v, b, e);
    std::optional<Tensor> mask;
    if (prefix >= 0) {
      const int64_t from = cu[prefix], to = cu[prefix + 1];
      keys = at::cat({batch(k, from, to), keys}, 2);
      values = at::cat({batch(v, from, to), values}, 2);
      // Row i sees the prefix and the first i + 1 tokens of its own.
      mask = at::ones({e - b, to - from + e - b}, q.options().dtype(at::kBool)).tril(to - from);
    }
    // The kernels that take a mask do not all know grouped heads, and the one that takes anything holds all scores.
    const bool repeats = grouped && mask;
    if (repeats) {
      keys = keys.repeat_interleave(q.size(1) / k.size(1), 1);
      values = values.repeat_interleave(q.size(1) / k.size(1), 1);
    }
    out.push_back(at::scaled_dot_product_attention(batch(q, b, e), keys, values, mask, 0.0, !mask, scale,
                                                   grouped && !repeats)
                      .transpose(1, 2)
                      .squeeze(0));
  }
  return at::cat(out, 0);
}

std::vector<int64_t> numbers(const int64_t* from, int n) {
  return from ? std::vector<int64_t>(from, from + n) : std::vector<int64_t>();
}

}  // namespace

extern "C" {

// prefix_of: n_cu - 1 numbers as in packed_attention.h, or null where no segment continues another.
int xt_varlen_attention(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, const int64_t* prefix_of,
                        double scale, Tensor** result) {
  return xplore::guarded([&] {
    const auto bounds = numbers(cu, n_cu), prefixes = numbers(prefix_of, n_cu - 1);
    if (!prefix_of && for_flash(*q))
      *result = new Tensor(varlen_attention_flash(q->contiguous(), k->contiguous(), v->contiguous(), bounds, scale));
    else if (!q->device().is_cpu())
      *result = new Tensor(varlen_attention_plain(*q, *k, *v, bounds, prefixes, scale));
    else if (prefix_of)
      *result = new Tensor(xplore::prefix_attention(*q, *k, *v, bounds, prefixes, scale));
    else
      *result = new Tensor(VarlenAttention::apply(*q, *k, *v, bounds, scale));
  });
}

// For tests: what other devices take, on any.
int xt_varlen_attention_plain(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, const int64_t* prefix_of,
                              double scale, Tensor** result) {
  return xplore::guarded([&] {
    const auto bounds = numbers(cu, n_cu), prefixes = numbers(prefix_of, n_cu - 1);
    *result = new Tensor(varlen_attention_plain(*q, *k, *v, bounds, prefixes, scale));
  });
}
}
