// All layers of a decoder for the new tokens of a forward pass on the CPU, without libtorch operations in between: with
// few rows, their dispatch and allocation cost as much as the products.
#include <ATen/Parallel.h>
#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "guard.h"
#include "layer_kernels.h"
#include "numbers.h"
#include "paged_attention.h"
#include "products.h"

using at::Tensor;
using xplore::kBlock;
using xplore::PackedWeight;
using xplore::RowShape;

// The weights and cache of a layer; biases and head norms may be null.
struct XtPagedLayer {
  Tensor *input_norm, *qkv_bias, *q_norm, *k_norm, *o_bias, *post_norm, *gate_up_bias, *down_bias, *keys, *values;
  PackedWeight *qkv, *o, *gate_up, *down;
};

// The new tokens: their cache slots, the blocks they attend to, and the tokens whose outputs are returned (ascending).
struct XtPagedTokens {
  const float *cos, *sin;  // [n, dim / 2]
  const int64_t* slots;
  xplore::PagedQueries queries;
  const int64_t* outputs;
  int64_t n_outputs;
};

namespace {

// Minimum number of elements per thread in an operation between products.
constexpr int64_t kGrain = 4096;

template <class T>
const T* data(const Tensor* t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

// T: float, or uint16_t for the bits of bf16.
template <class T>
struct Pass {
  const RowShape s;
  const XtPagedTokens t;
  const float scale;
  // Number of active tokens: all, and after the last layer's cache write only those whose outputs are returned.
  int64_t n = t.queries.n;
  const int64_t qkv = (s.heads + 2 * s.kv_heads) * s.dim, attended = s.heads * s.dim;
  const Tensor memory = at::empty(
      {n * (s.hidden + std::max({qkv, s.hidden, 2 * s.width}) + std::max({s.hidden, s.width, attended}))}, at::kFloat);
  float* const residual = memory.mutable_data_ptr<float>();
  // The output and the input of a product.
  float* const sums = residual + n * s.hidden;
  float* const rows = sums + n * std::max({qkv, s.hidden, 2 * s.width});

  template <class F>
  void each_row(int64_t elements, const F& f) const {
    at::parallel_for(0, n, std::max<int64_t>(1, kGrain / elements), [&](int64_t b, int64_t e) {
      for (int64_t r = b; r < e; ++r) f(r);
    });
  }

  // sums = rows · wᵀ.
  void multiply(const PackedWeight* w) { w->multiply(rows, w->k, sums, n); }

  // Adds the output of the last product to `residual`; its norm becomes the input of the next product.
  void enter(bool add, const Tensor* bias, const Tensor* norm) {
    each_row(s.hidden, [&](int64_t r) {
      xplore::add_and_norm(s, residual + r * s.hidden, add ? sums + r * s.hidden : nullptr, data<T>(bias),
                           data<T>(norm), rows + r * s.hidden);
    });
  }

  // Writes the keys and values of all tokens to the cache; queries replace their sums.
  void project(const XtPagedLayer& layer) {
    const xplore::HeadWeights<T> weights{data<T>(layer.qkv_bias), data<T>(layer.q_norm), data<T>(layer.k_norm)};
    T *keys = static_cast<T*>(layer.keys->data_ptr()), *values = static_cast<T*>(layer.values->data_ptr());
    const int64_t block = s.kv_heads * s.dim * kBlock, half = s.dim / 2;
    each_row(qkv, [&](int64_t r) {
      const int64_t at = t.slots[r] / kBlock * block;
      xplore::queries_keys_values(s, weights, sums + r * qkv, t.cos + r * half, t.sin + r * half, keys + at,
                                  values + at, t.slots[r] % kBlock);
    });
  }

  void attend(const XtPagedLayer& layer, const xplore::PagedQueries& queries) {
    const xplore::PagedCache cache{
        layer.keys->data_ptr(), layer.values->data_ptr(), sizeof(T) == 2, s.heads, s.kv_heads, s.dim, scale};
    xplore::attend_paged(cache, queries, sums, qkv, rows, attended, nullptr,
                         [&](int64_t r, int64_t first, int64_t count) {
                           if (sizeof(T) == 2)
                             xplore::round_to_bf16(rows + r * attended + first * s.dim, count * s.dim);
                         });
  }

  // Drops the tokens whose outputs are not returned: nothing attends to them after this point.
  xplore::PagedQueries keep_outputs(std::vector<int64_t>& begin, std::vector<int64_t>& length) {
    for (int64_t i = 0; i < t.n_outputs; ++i) {
      const int64_t r = t.outputs[i];
      std::copy_n(residual + r * s.hidden, s.hidden, residual + i * s.hidden);
      std::copy_n(sums + r * qkv, attended, sums + i * qkv);
      begin.push_back(t.queries.begin[r]);
      length.push_back(t.queries.length[r]);
    }
    n = t.n_outputs;
    return {t.queries.table, begin.data(), length.data(), n};
  }

  void run(const T* x, T* y, const XtPagedLayer* layers, int64_t count) {
    at::parallel_for(0, n * s.hidden, 16384, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) residual[i] = xplore::widen(x[i]);
    });
    const Tensor* bias = nullptr;
    xplore::PagedQueries queries = t.queries;
    std::vector<int64_t> begin, length;
    for (int64_t l = 0; l < count; ++l) {
      const XtPagedLayer& layer = layers[l];
      enter(l > 0, bias, layer.input_norm);
      multiply(layer.qkv);
      project(layer);
      if (l + 1 == count) queries = keep_outputs(begin, length);
      if (n == 0) return;
      attend(layer, queries);
      multiply(layer.o);
      enter(true, layer.o_bias, layer.post_norm);
      multiply(layer.gate_up);
      each_row(2 * s.width, [&](int64_t r) {
        xplore::gate(s, data<T>(layer.gate_up_bias), sums + r * 2 * s.width, rows + r * s.width);
      });
      multiply(layer.down);
      bias = layer.down_bias;
    }
    each_row(s.hidden, [&](int64_t r) {
      xplore::add(s, residual + r * s.hidden, sums + r * s.hidden, data<T>(bias), y + r * s.hidden);
    });
  }
};

}  // namespace

extern "C" {

// x [n, hidden] → the last layer's output for the requested tokens, [n_outputs, hidden]. Writes the keys and values of
// all tokens to the cache.
int xt_paged_layers(Tensor* x, const XtPagedLayer* layers, int64_t count, const XtPagedTokens* tokens, int64_t width,
                    int64_t heads, int64_t kv_heads, int64_t dim, double eps, double scale, Tensor** result) {
  return xplore::guarded([&] {
    const RowShape shape{x->size(1), width, heads, kv_heads, dim, static_cast<float>(eps)};
    const Tensor in = x->contiguous();
    Tensor out = at::empty({tokens->n_outputs, x->size(1)}, in.options());
    const auto run = [&](auto zero) {
      using T = decltype(zero);
      Pass<T>{shape, *tokens, static_cast<float>(scale)}.run(static_cast<const T*>(in.const_data_ptr()),
                                                             static_cast<T*>(out.mutable_data_ptr()), layers, count);
    };
    if (x->scalar_type() == at::kFloat)
      run(float{});
    else
      run(uint16_t{});
    *result = new Tensor(out);
  });
}
}
