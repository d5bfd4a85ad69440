// Attention over packed batches on the CPU. The forward pass uses cpu/attention.h. The backward pass uses libtorch's
// flash kernel, on batches made of ranges of [tokens, heads, dim].
#pragma once
#include <ATen/ATen.h>

#include <tuple>
#include <vector>

#include "cpu/cpu.h"

namespace xplore {

using at::Tensor;

// Tokens [begin, end).
struct Range {
  int64_t begin, end;
  int64_t length() const { return end - begin; }
};

// Returns the tokens of a range as a batch of one, [1, heads, length, dim], in the dtype that this CPU multiplies
// fastest; a view if that is the tensor's own dtype.
inline Tensor as_batch(const Tensor& packed, Range at) {
  static const bool fast = library_has_fast_bf16();
  const Tensor part = packed.narrow(0, at.begin, at.length());
  const bool widens = part.scalar_type() != at::kDouble && !(fast && part.scalar_type() == at::kBFloat16);
  return (widens ? part.to(at::kFloat) : part).unsqueeze(0).transpose(1, 2);
}

// Returns the keys or values of a range, with each head repeated for the query heads that share it.
inline Tensor repeated(const Tensor& packed, Range at, int64_t heads) {
  const Tensor batch = as_batch(packed, at);
  const int64_t kv = batch.size(1), length = at.length(), dim = batch.size(3);
  if (kv == heads) return batch;
  return batch.unsqueeze(2).expand({1, kv, heads / kv, length, dim}).reshape({1, heads, length, dim});
}

// Converts [1, .., length, dim] to [length, heads, dim]; sums heads that share a key.
inline Tensor as_tokens(const Tensor& batch, int64_t heads) {
  const int64_t all = batch.size(1), length = batch.size(2), dim = batch.size(3);
  const Tensor summed = all == heads ? batch.squeeze(0) : batch.reshape({heads, all / heads, length, dim}).sum(1);
  return summed.transpose(0, 1);
}

// Writes a batch to the tokens of `packed` from `begin` on.
inline void put(Tensor& packed, int64_t begin, const Tensor& batch) {
  packed.narrow(0, begin, batch.size(2)).copy_(as_tokens(batch, packed.size(1)));
}

// Adds a batch to the tokens of `packed` from `begin` on.
inline void add(Tensor& packed, int64_t begin, const Tensor& batch) {
  packed.narrow(0, begin, batch.size(2)).add_(as_tokens(batch, packed.size(1)));
}

// Queries, keys and values of a packed batch.
struct Packed {
  Tensor q, k, v;
  double scale;

  // Gradients of the queries of one range with respect to the keys of another, causal if the ranges are the same. `out`
  // is that of the whole batch; `lse` is that of these queries. If the queries attend to keys beyond this range, both
  // cover all keys, and the gradients are this range's contribution.
  std::tuple<Tensor, Tensor, Tensor> attend_backward(Range queries, Range keys, const Tensor& dout, const Tensor& out,
                                                     const Tensor& lse) const {
    const int64_t heads = q.size(1);
    return at::_scaled_dot_product_flash_attention_for_cpu_backward(
        as_batch(dout, queries), as_batch(q, queries), repeated(k, keys, heads), repeated(v, keys, heads),
        as_batch(out, queries), lse, 0.0, queries.begin == keys.begin, std::nullopt, scale);
  }
};

// Attention over segments (bounded by cu) that may continue others: segment s attends to itself causally, and to all of
// segment prefix_of[s] unless that is -1. Segments that continue the same segment follow it. On the CPU, fp32, bf16 or
// fp16.
Tensor packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                        const std::vector<int64_t>& prefix_of, double scale);

}  // namespace xplore
