// The key/value cache of the generation engine: writing to it and attending to it.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <vector>

#include "guard.h"
#include "paged_attention.h"

using at::Tensor;
using torch::indexing::Slice;
using xplore::kBlock;

namespace {

bool has_kernel(const Tensor& t) {
  return t.device().is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

Tensor on(const Tensor& like, const int64_t* values, int64_t n) {
  return at::from_blob(const_cast<int64_t*>(values), {n}, at::kLong).to(like.device(), at::kLong, false, true);
}

template <class T>
void write_rows(const Tensor& cache_k, const Tensor& cache_v, const Tensor& k, const Tensor& v, const int64_t* slots) {
  const int64_t n = k.size(0), heads = k.size(1), dim = k.size(2), step = heads * dim * kBlock;
  T *kp = static_cast<T*>(cache_k.data_ptr()), *vp = static_cast<T*>(cache_v.data_ptr());
  const T *ks = static_cast<const T*>(k.const_data_ptr()), *vs = static_cast<const T*>(v.const_data_ptr());
  const int64_t k_stride = k.stride(0), v_stride = v.stride(0);
  at::parallel_for(0, n, std::max<int64_t>(1, 8192 / (heads * dim)), [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t block = slots[i] / kBlock * step, place = slots[i] % kBlock;
      for (int64_t h = 0; h < heads; ++h) {
        T* ko = kp + block + h * dim * kBlock + place;
        T* vo = vp + block + h * dim * kBlock + place * dim;
        const T *ki = ks + i * k_stride + h * dim, *vi = vs + i * v_stride + h * dim;
        for (int64_t d = 0; d < dim; ++d) ko[d * kBlock] = ki[d];
        for (int64_t d = 0; d < dim; ++d) vo[d] = vi[d];
      }
    }
  });
}

// Heads lie side by side in a row.
Tensor rows_of(const Tensor& t) { return t.stride(2) == 1 && t.stride(1) == t.size(2) ? t : t.contiguous(); }

// By operations that every device and dtype has: the blocks of a run of queries (those of one row) are gathered.
Tensor attend_plain(const Tensor& q, const Tensor& k, const Tensor& v, const int64_t* table, const int64_t* begin,
                    const int64_t* length, double scale) {
  const int64_t n = q.size(0), heads = q.size(1), dim = q.size(2), kv_heads = k.size(1);
  Tensor out = at::empty_like(q, at::MemoryFormat::Contiguous);
  for (int64_t i = 0; i < n;) {
    int64_t j = i, longest = 0;
    for (; j < n && begin[j] == begin[i]; ++j) longest = std::max(longest, length[j]);
    Tensor blocks = on(q, table + begin[i], (longest + kBlock - 1) / kBlock);
    auto gather = [&](const Tensor& cache, std::vector<int64_t> order) {
      Tensor all = cache.index_select(0, blocks).permute(order).reshape({kv_heads, -1, dim}).narrow(1, 0, longest);
      return all.repeat_interleave(heads / kv_heads, 0).unsqueeze(0);
    };
    Tensor lengths = on(q, length + i, j - i);
    Tensor mask = at::arange(longest, lengths.options()).unsqueeze(0) < lengths.unsqueeze(1);
    Tensor query = q.narrow(0, i, j - i).transpose(0, 1).unsqueeze(0);
    Tensor one = at::scaled_dot_product_attention(query, gather(k, {1, 0, 3, 2}), gather(v, {1, 0, 2, 3}), mask, 0.0,
                                                  false, scale);
    out.narrow(0, i, j - i).copy_(one.squeeze(0).transpose(0, 1));
    i = j;
  }
  return out;
}

}  // namespace

extern "C" {

int64_t xt_paged_block() { return kBlock; }

// k, v [n, kv_heads, dim] go to positions `slots` (block · kBlock + place in it).
int xt_write_paged(Tensor* cache_k, Tensor* cache_v, Tensor* k, Tensor* v, const int64_t* slots) {
  return xplore::guarded([&] {
    if (has_kernel(*k)) {
      Tensor kr = rows_of(*k), vr = rows_of(*v);
      if (k->scalar_type() == at::kFloat)
        write_rows<uint32_t>(*cache_k, *cache_v, kr, vr, slots);
      else
        write_rows<uint16_t>(*cache_k, *cache_v, kr, vr, slots);
    } else {
      Tensor at = on(*k, slots, k->size(0));
      Tensor block = at.div(kBlock, "floor"), place = at.remainder(kBlock);
      cache_k->index_put_({block, Slice(), Slice(), place}, *k);
      cache_v->index_put_({block, Slice(), place}, *v);
    }
  });
}

// q [n, heads, dim]; query i attends to the first length[i] positions of the blocks table[begin[i]…].
int xt_paged_attention(Tensor* q, Tensor* cache_k, Tensor* cache_v, const int32_t* table, int64_t table_size,
                       const int64_t* begin, const int64_t* length, double scale, Tensor** result) {
  return xplore::guarded([&] {
    const int64_t n = q->size(0), heads = q->size(1), dim = q->size(2), kv_heads = cache_k->size(1);
    if (!has_kernel(*q)) {
      std::vector<int64_t> wide(table, table + table_size);
      *result = new Tensor(attend_plain(*q, *cache_k, *cache_v, wide.data(), begin, length, scale));
      return;
    }
    Tensor qf = q->to(at::kFloat).contiguous();
    Tensor out = at::empty({n, heads, dim}, qf.options());
    const auto attend = [&](auto zero) {
      using T = decltype(zero);
      const xplore::PagedCache<T> cache{static_cast<const T*>(cache_k->const_data_ptr()),
                                        static_cast<const T*>(cache_v->const_data_ptr()), heads, kv_heads, dim,
                                        static_cast<float>(scale)};
      xplore::attend_paged(cache, {table, begin, length, n}, qf.const_data_ptr<float>(), heads * dim,
                           out.mutable_data_ptr<float>(), heads * dim, [](int64_t, int64_t, int64_t) {});
    };
    if (q->scalar_type() == at::kFloat)
      attend(float{});
    else
      attend(uint16_t{});
    *result = new Tensor(out.to(q->scalar_type()));
  });
}
}
