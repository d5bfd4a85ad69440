// Causal attention within each sequence of a packed batch.
#include <ATen/ATen.h>

#include "guard.h"
#include "packed_attention.h"

using at::Tensor;

namespace {

// Whether libtorch's flash kernel for GPUs supports these tensors, all sequences in one call. (Not tested on a GPU yet:
// scripts/gpu-check.)
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

// Fallback of operations that every device supports. prefix_of is empty if no segment continues another.
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
      // Row i attends to the prefix and to the first i + 1 tokens of its own segment.
      mask = at::ones({e - b, to - from + e - b}, q.options().dtype(at::kBool)).tril(to - from);
    }
    // Not every kernel that takes a mask supports grouped heads, and the one that accepts any input materializes all
    // scores.
    const bool repeats = grouped && mask;
    if (repeats) {
      keys = keys.repeat_interleave(q.size(1) / k.size(1), 1);
      values = values.repeat_interleave(q.size(1) / k.size(1), 1);
    }
    out.push_back(
        at::scaled_dot_product_attention(batch(q, b, e), keys, values, mask, 0.0, !mask, scale, grouped && !repeats)
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

// prefix_of: n_cu - 1 elements as in packed_attention.h, or null if no segment continues another.
int xt_varlen_attention(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, const int64_t* prefix_of,
                        double scale, Tensor** result) {
  return xplore::guarded([&] {
    const auto bounds = numbers(cu, n_cu), prefixes = numbers(prefix_of, n_cu - 1);
    if (!prefix_of && for_flash(*q))
      *result = new Tensor(varlen_attention_flash(q->contiguous(), k->contiguous(), v->contiguous(), bounds, scale));
    else if (!q->device().is_cpu() || q->scalar_type() == at::kDouble)
      *result = new Tensor(varlen_attention_plain(*q, *k, *v, bounds, prefixes, scale));
    else
      *result = new Tensor(xplore::packed_attention(*q, *k, *v, bounds,
                                                    prefix_of ? prefixes : std::vector<int64_t>(n_cu - 1, -1), scale));
  });
}

// For tests: the fallback of other devices, on any device.
int xt_varlen_attention_plain(Tensor* q, Tensor* k, Tensor* v, const int64_t* cu, int n_cu, const int64_t* prefix_of,
                              double scale, Tensor** result) {
  return xplore::guarded([&] {
    const auto bounds = numbers(cu, n_cu), prefixes = numbers(prefix_of, n_cu - 1);
    *result = new Tensor(varlen_attention_plain(*q, *k, *v, bounds, prefixes, scale));
  });
}
}
