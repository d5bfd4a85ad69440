// Attention over packed batches, in which several sequences may share a prefix.
#include "packed_attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include "paged_attention.h"

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
  // The tokens of all branches of a prefix whose first branch is s.
  Range branches(int64_t s) const {
    int64_t end = s;
    while (end < count() && prefix_of[end] == prefix_of[s]) ++end;
    return {cu[s], cu[end]};
  }
};

// The keys and values of a packed batch in blocks, and the positions that each token attends to. A branch shares the
// blocks that its prefix fills, followed by its own, which start with the rest of the prefix: every position is where
// it would be in an unshared sequence.
struct Blocks {
  std::vector<int32_t> table;
  std::vector<int64_t> begin, length;  // of each token

  struct Part {
    int64_t prefix, prefix_length;  // first token and length of the prefix
    int64_t own, total;             // first token of the segment; positions with the prefix
    int64_t first, blocks;          // own blocks; the first holds position first_position
    int64_t first_position;
  };
  std::vector<Part> parts;
  int64_t count = 0;

  explicit Blocks(const Segments& segments) {
    std::vector<int64_t> table_of;
    for (int64_t s = 0; s < segments.count(); ++s) {
      const Range own = segments.at(s);
      const int64_t prefix = segments.prefix_of[s];
      const Range before = prefix < 0 ? Range{0, 0} : segments.at(prefix);
      const int64_t shared = before.length() / kBlock, total = before.length() + own.length();
      Part part{before.begin,   before.length(), own.begin, total, count, (total + kBlock - 1) / kBlock - shared,
                shared * kBlock};
      table_of.push_back(static_cast<int64_t>(table.size()));
      for (int64_t b = 0; b < shared; ++b) table.push_back(table[table_of[prefix] + b]);
      for (int64_t b = 0; b < part.blocks; ++b) table.push_back(static_cast<int32_t>(count++));
      for (int64_t i = 0; i < own.length(); ++i) {
        begin.push_back(table_of[s]);
        length.push_back(before.length() + i + 1);
      }
      parts.push_back(part);
    }
  }

  // Returns keys as [count, kv_heads, dim, kBlock] and values as [count, kv_heads, kBlock, dim], fp32.
  std::pair<Tensor, Tensor> fill(const Tensor& k, const Tensor& v) const {
    const int64_t heads = k.size(1), dim = k.size(2);
    const Tensor kf = k.to(at::kFloat).contiguous(), vf = v.to(at::kFloat).contiguous();
    const float *from_k = kf.const_data_ptr<float>(), *from_v = vf.const_data_ptr<float>();
    Tensor keys = at::empty({count, heads, dim, kBlock}, kf.options()),
           values = at::empty({count, heads, kBlock, dim}, kf.options());
    float *to_k = keys.mutable_data_ptr<float>(), *to_v = values.mutable_data_ptr<float>();
    each_item(static_cast<int64_t>(parts.size()), keys.numel() / 16384, [&](int64_t s) {
      const Part& part = parts[s];
      for (int64_t b = 0; b < part.blocks; ++b) {
        const int64_t from = part.first_position + b * kBlock, to = std::min(from + kBlock, part.total);
        for (int64_t h = 0; h < heads; ++h) {
          const int64_t at = ((part.first + b) * heads + h) * dim * kBlock;
          for (int64_t p = from; p < to; ++p) {
            const int64_t token = p < part.prefix_length ? part.prefix + p : part.own + p - part.prefix_length;
            const float *key = from_k + (token * heads + h) * dim, *value = from_v + (token * heads + h) * dim;
            for (int64_t d = 0; d < dim; ++d) to_k[at + d * kBlock + p - from] = key[d];
            std::copy_n(value, dim, to_v + at + (p - from) * dim);
          }
        }
      }
    });
    return {keys, values};
  }
};

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor q, Tensor k, Tensor v, std::vector<int64_t> cu,
                        std::vector<int64_t> prefix_of, double scale) {
    const int64_t tokens = q.size(0), heads = q.size(1), kv_heads = k.size(1), dim = q.size(2);
    const Blocks blocks(Segments{cu, prefix_of});
    const auto [keys, values] = blocks.fill(k, v);
    const Tensor queries = q.to(at::kFloat).contiguous();
    Tensor out = at::empty({tokens, heads, dim}, queries.options()),
           lse = at::empty({tokens, heads}, queries.options());
    const PagedCache cache{keys.const_data_ptr(),    values.const_data_ptr(), false, heads, kv_heads, dim,
                           static_cast<float>(scale)};
    attend_paged(cache, {blocks.table.data(), blocks.begin.data(), blocks.length.data(), tokens},
                 queries.const_data_ptr<float>(), heads * dim, out.mutable_data_ptr<float>(), heads * dim,
                 lse.mutable_data_ptr<float>(), [](int64_t, int64_t, int64_t) {});
    out = out.to(q.scalar_type());
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

Tensor packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                        const std::vector<int64_t>& prefix_of, double scale) {
  return PackedAttention::apply(q, k, v, cu, prefix_of, scale);
}

}  // namespace xplore
