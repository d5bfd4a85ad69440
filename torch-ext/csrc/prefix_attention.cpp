// Attention over packed batches in which several sequences share the tokens they begin with. What a branch sees comes
// in two parts, the prefix and its own tokens. Each is a call of the flash kernel; log-sum-exp says how the parts weigh.
// On the way back each part gets the log-sum-exp and the output over both: its probabilities are then those of the
// whole softmax.
#include <torch/torch.h>

#include "packed_attention.h"

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace xplore {
namespace {

struct Segments {
  const std::vector<int64_t>&cu, &prefix_of;

  int64_t count() const { return static_cast<int64_t>(prefix_of.size()); }
  Range at(int64_t s) const { return {cu[s], cu[s + 1]}; }
  bool is_branch(int64_t s) const { return prefix_of[s] >= 0; }
  bool is_first_branch(int64_t s) const { return is_branch(s) && prefix_of[s] == s - 1; }
  // Tokens of all branches of the prefix whose first branch is s.
  Range branches(int64_t s) const {
    int64_t end = s;
    while (end < count() && prefix_of[end] == prefix_of[s]) ++end;
    return {cu[s], cu[end]};
  }
};

struct PrefixAttention : torch::autograd::Function<PrefixAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor q, Tensor k, Tensor v, std::vector<int64_t> cu,
                        std::vector<int64_t> prefix_of, double scale) {
    const Packed packed{q, k, v, scale};
    const Segments segments{cu, prefix_of};
    const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    Tensor lse = at::empty({q.size(0), q.size(1)}, q.options().dtype(wide));
    // Of the branches at hand on their prefix.
    Tensor prefix_out, prefix_lse;
    int64_t first = 0;
    for (int64_t s = 0; s < segments.count(); ++s) {
      const Range own = segments.at(s);
      auto [o, l] = packed.attend(own, own);
      if (segments.is_first_branch(s)) {
        first = own.begin;
        std::tie(prefix_out, prefix_lse) = packed.attend(segments.branches(s), segments.at(prefix_of[s]));
      }
      if (segments.is_branch(s)) {
        const Tensor there = prefix_lse.narrow(2, own.begin - first, own.length());
        const Tensor more = prefix_out.narrow(2, own.begin - first, own.length());
        o = o.to(wide).lerp(more.to(wide), at::sigmoid(there - l).unsqueeze(-1));
        l = at::logaddexp(l, there);
      }
      put(out, own.begin, o);
      lse.narrow(0, own.begin, own.length()).copy_(l.squeeze(0).t());
    }
    ctx->save_for_backward({q, k, v, out, lse});
    ctx->saved_data["cu"] = cu;
    ctx->saved_data["prefix_of"] = prefix_of;
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Packed packed{saved[0], saved[1], saved[2], ctx->saved_data["scale"].toDouble()};
    const Tensor out = saved[3], dout = grads[0].contiguous();
    const auto cu = ctx->saved_data["cu"].toIntVector(), prefix_of = ctx->saved_data["prefix_of"].toIntVector();
    const Segments segments{cu, prefix_of};
    auto lse = [&](Range at) { return saved[4].narrow(0, at.begin, at.length()).t().unsqueeze(0); };
    auto like = [](const Tensor& t) { return at::empty({t.size(0), t.size(1), t.size(2)}, t.options()); };
    Tensor dq = like(packed.q), dk = like(packed.k), dv = like(packed.v);
    for (int64_t s = 0; s < segments.count(); ++s) {
      const Range own = segments.at(s);
      auto [a, b, c] = packed.attend_backward(own, own, dout, out, lse(own));
      put(dq, own.begin, a);
      put(dk, own.begin, b);
      put(dv, own.begin, c);
    }
    for (int64_t s = 0; s < segments.count(); ++s) {
      if (!segments.is_first_branch(s)) continue;
      const Range branches = segments.branches(s), prefix = segments.at(prefix_of[s]);
      auto [a, b, c] = packed.attend_backward(branches, prefix, dout, out, lse(branches));
      add(dq, branches.begin, a);
      add(dk, prefix.begin, b);
      add(dv, prefix.begin, c);
    }
    return {dq, dk, dv, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor prefix_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                        const std::vector<int64_t>& prefix_of, double scale) {
  return PrefixAttention::apply(q, k, v, cu, prefix_of, scale);
}

}  // namespace xplore
