// The KV cache of the inference engine: writing to it and attending to it.
#include <ATen/Parallel.h>
#include <ATen/ATen.h>
#include <ATen/TensorIndexing.h>

#include <limits>
#include <vector>

#include "gpu/launch.h"
#include "guard.h"
#include "paged_attention.h"

using at::Tensor;
using at::indexing::Slice;
using xplore::kBlock;

namespace {

bool has_kernel(const Tensor& t) {
  return t.device().is_cpu() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16);
}

Tensor on(const Tensor& like, const int64_t* values, int64_t n) {
  return at::from_blob(const_cast<int64_t*>(values), {n}, at::kLong)
      .to(like.device(), at::kLong, /*non_blocking=*/true, /*copy=*/true);
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

// Returns t with the heads of a row contiguous.
Tensor rows_of(const Tensor& t) { return t.stride(2) == 1 && t.stride(1) == t.size(2) ? t : t.contiguous(); }

// Fallback of operations that every device and dtype supports: gathers the blocks of a run of queries (those of one
// sequence).
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

// The queries, on the host and on the device.
struct Queries {
  const int32_t* table;
  int64_t table_size;
  const int64_t *begin, *length;
  const Tensor *on_table, *on_begin, *on_length;
};

bool for_gpu(const Tensor& q, int64_t kv_heads) {
  const int64_t heads = q.size(1), dim = q.size(2);
  return xplore::has_gpu_kernels(q) && dim % 4 == 0 && dim <= 256 && heads / kv_heads <= 8;
}

// Computes queries [from, to) with the kernel of gpu/paged.cu.
void attend_gpu(const Tensor& q, const Tensor& k, const Tensor& v, const Queries& queries, double scale, Tensor& out,
                int64_t from, int64_t to) {
  const int64_t n = to - from, heads = q.size(1), dim = q.size(2), kv_heads = k.size(1), group = heads / kv_heads;
  // With few queries, each is split into parts, so that there are thread blocks for about 132 multiprocessors four
  // times over.
  const int64_t longest = *std::max_element(queries.length + from, queries.length + to);
  const int64_t most = std::max<int64_t>(1, (longest + kBlock - 1) / kBlock / 4);
  const int64_t parts = std::clamp<int64_t>(4 * 132 / (n * kv_heads), 1, most);
  Tensor sums = at::empty({parts > 1 ? n * heads * parts * (dim + 2) : 0}, q.options().dtype(at::kFloat));
  int64_t room = 1;
  while (room < group) room *= 2;
  const std::string name = "paged_attention_" + std::to_string(room) + (dim <= 128 ? "_1" : "_2");
  const auto row = [&](const Tensor& t) {
    return static_cast<const char*>(t.const_data_ptr()) + from * heads * dim * t.element_size();
  };
  xplore::launch(q, name, {n, kv_heads, parts}, 128, row(q), k.const_data_ptr(), v.const_data_ptr(),
                 queries.on_table->const_data_ptr(), queries.on_begin->const_data_ptr<int64_t>() + from,
                 queries.on_length->const_data_ptr<int64_t>() + from, row(out), sums.data_ptr(), heads, kv_heads, dim,
                 static_cast<float>(scale));
  if (parts > 1)
    xplore::launch(q, "join_parts", xplore::warps(n * heads), xplore::kThreads, sums.data_ptr(), row(out), n * heads,
                   parts, dim);
}

// From this many queries of one sequence on, it is faster to gather its blocks once for libtorch's attention.
constexpr int64_t kLongRun = 64;

Tensor attend_on_device(const Tensor& q, const Tensor& k, const Tensor& v, const Queries& queries, double scale) {
  std::vector<int64_t> wide(queries.table, queries.table + queries.table_size);
  if (!for_gpu(q, k.size(1))) return attend_plain(q, k, v, wide.data(), queries.begin, queries.length, scale);
  const int64_t n = q.size(0);
  Tensor out = at::empty_like(q, at::MemoryFormat::Contiguous);
  int64_t done = 0;
  for (int64_t i = 0, j; i < n; i = j) {
    for (j = i; j < n && queries.begin[j] == queries.begin[i]; ++j) {}
    if (j - i < kLongRun) continue;
    if (done < i) attend_gpu(q, k, v, queries, scale, out, done, i);
    out.narrow(0, i, j - i)
        .copy_(attend_plain(q.narrow(0, i, j - i), k, v, wide.data(), queries.begin + i, queries.length + i, scale));
    done = j;
  }
  if (done < n) attend_gpu(q, k, v, queries, scale, out, done, n);
  return out;
}

}  // namespace

extern "C" {

int xt_has_gpu_kernels(Tensor* t) { return xplore::has_gpu_kernels(*t); }

int64_t xt_paged_block() { return kBlock; }

// Returns the maximum number of tokens per call of xt_paged_layers, for a model in bf16 or fp32; 0 while GPU kernels
// are emulated. Where libtorch multiplies bf16 faster, it does so only with many rows.
int64_t xt_most_paged_tokens(int bf16) {
  int64_t most = 0;
  xplore::guarded([&] {
    if (xplore::emulates_gpu()) return;
    most = bf16 && xplore::library_multiplies_bf16() ? xplore::kFewRows : std::numeric_limits<int64_t>::max();
  });
  return most;
}

// Writes k, v [n, kv_heads, dim] to the positions `slots` (block · kBlock + offset in the block). on_slots: a copy on a
// GPU, or null.
int xt_write_paged(Tensor* cache_k, Tensor* cache_v, Tensor* k, Tensor* v, const int64_t* slots, Tensor* on_slots) {
  return xplore::guarded([&] {
    if (on_slots && xplore::has_gpu_kernels(*k)) {
      const Tensor kc = k->contiguous(), vc = v->contiguous();
      const int64_t n = k->size(0), heads = k->size(1), dim = k->size(2);
      xplore::launch(kc, "write_paged", xplore::threads(n * heads * dim), xplore::kThreads, kc.const_data_ptr(),
                     vc.const_data_ptr(), cache_k->data_ptr(), cache_v->data_ptr(), on_slots->const_data_ptr(), n,
                     heads, dim);
    } else if (has_kernel(*k)) {
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

// q [n, heads, dim]; query i attends to the first length[i] positions of the blocks table[begin[i]…]. on_*: copies on a
// GPU (int32, int64, int64), or null.
int xt_paged_attention(Tensor* q, Tensor* cache_k, Tensor* cache_v, const int32_t* table, int64_t table_size,
                       const int64_t* begin, const int64_t* length, Tensor* on_table, Tensor* on_begin,
                       Tensor* on_length, double scale, Tensor** result) {
  return xplore::guarded([&] {
    const int64_t n = q->size(0), heads = q->size(1), dim = q->size(2), kv_heads = cache_k->size(1);
    if (on_table || !has_kernel(*q)) {
      const Queries queries{table, table_size, begin, length, on_table, on_begin, on_length};
      *result = new Tensor(attend_on_device(q->contiguous(), *cache_k, *cache_v, queries, scale));
      return;
    }
    Tensor qf = q->to(at::kFloat).contiguous();
    Tensor out = at::empty({n, heads, dim}, qf.options());
    const xplore::PagedCache cache{
        cache_k->const_data_ptr(), cache_v->const_data_ptr(), q->scalar_type() == at::kBFloat16, heads, kv_heads, dim,
        static_cast<float>(scale)};
    xplore::attend_paged(cache, {table, begin, length, n}, qf.const_data_ptr<float>(), heads * dim,
                         out.mutable_data_ptr<float>(), heads * dim, nullptr, [](int64_t, int64_t, int64_t) {});
    *result = new Tensor(out.to(q->scalar_type()));
  });
}
}
