// Attention over packed batches on the CPU: the forward pass by cpu/attention.h, the backward pass by libtorch's flash kernel, to
// which parts of [tokens, heads, dim] go as batches.
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

// The tokens of a range as a batch of one, [1, heads, length, dim], in the format in which this CPU multiplies fastest;
// a view if that is its own.
inline Tensor as_batch(const Tensor& packed, Range at) {
  static const bool fast = library_has_fast_bf16();
  const Tensor part = packed.narrow(0, at.begin, at.length());
  const bool widens = part.scalar_type() != at::kDouble && !(fast && part.scalar_type() == at::kBFloat16);
  return (widens ? part.to(at::kFloat) : part).unsqueeze(0).transpose(1, 2);
}

// Keys or values of a range, each head repeated for the queries that share it.
inline Tensor repeated(const Tensor& packed, Range at, int64_t heads) {
  const Tensor batch = as_batch(packed, at);
  const int64_t kv = batch.size(1), length = at.length(), dim = batch.size(3);
  if (kv == heads) return batch;
  return batch.unsqueeze(2).expand({1, kv, heads / kv, length, dim}).reshape({1, heads, length, dim});
}

// [1, .., length, dim] as [length, heads, dim]; heads that share a key are summed.
inline Tensor as_tokens(const Tensor& batch, int64_t heads) {
  const int64_t all = batch.size(1), length = batch.size(2), dim = batch.size(3);
  const Tensor summed = all == heads ? batch.squeeze(0) : batch.reshape({heads, all / heads, length, dim}).sum(1);
  return summed.transpose(0, 1);
}

// Writes a batch to the tokens of packed from begin on.
inline void put(Tensor& packed, int64_t begin, const Tensor& batch) {
  packed.narrow(0, begin, batch.size(2)).copy_(as_tokens(batch, packed.size(1)));
}

// The same, added to what stands there.
inline void add(Tensor& packed, int64_t begin, const Tensor& batch) {
  packed.narrow(0, begin, batch.size(2)).add_(as_tokens(batch, packed.size(1)));
}

// Queries, keys and values of a packed batch.
struct Packed {
  Tensor q, k, v;
  double scale;

  // Gradients of the queries of one range on the keys of another, causal where those are the same range. out is the whole
  // batch's; lse is that of these queries.
  // Where the queries have keys beyond these, both are over all of them, and the gradients are this part's share.
  std::tuple<Tensor, Tensor, Tensor> attend_backward(Range queries, Range keys, const Tensor& dout, const Tensor& out,
                                                     const Tensor& lse) const {
    const int64_t heads = q.size(1);
    return at::_scaled_dot_product_flash_attention_for_cpu_backward(
        as_batch(dout, queries), as_batch(q, queries), repeated(k, keys, heads), repeated(v, keys, heads),
        as_batch(out, queries), lse, 0.0, queries.begin == keys.begin, std::nullopt, scale);
  }
};

// Attention where segments (bounded by cu) may continue others: segment s sees itself causally, and all of segment
// prefix_of[s] unless that is -1. Segments that continue the same one follow it. On the CPU, fp32, bf16 or fp16.
Tensor packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<int64_t>& cu,
                        const std::vector<int64_t>& prefix_of, double scale);

}  // namespace xplore
