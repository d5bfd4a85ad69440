// All layers of a decoder for a few new tokens on the CPU, between two calls of which nothing of libtorch runs: at so
// few rows its dispatch and allocation cost as much as the products.
#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <vector>

#include "gpu/launch.h"
#include "guard.h"
#include "layer_kernels.h"
#include "paged_attention.h"
#include "skinny.h"

using at::Tensor;
using xplore::kBlock;
using xplore::Product;
using xplore::RowShape;

// Weights and cache of a layer; biases and head norms may be null.
struct XtPagedLayer {
  Tensor *input_norm, *qkv, *qkv_bias, *q_norm, *k_norm, *o, *o_bias, *post_norm, *gate_up, *gate_up_bias, *down,
      *down_bias, *keys, *values;
};

// New tokens: where they lie in the cache and which of its blocks they attend to.
struct XtPagedTokens {
  const float *cos, *sin;  // [n, dim / 2]
  const int64_t* slots;
  xplore::PagedQueries queries;
};

namespace {

// Numbers that a thread takes at least in a step between products.
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
  const Product product = xplore::skinny_product(sizeof(T) == 2);
  const int64_t n = t.queries.n, qkv = (s.heads + 2 * s.kv_heads) * s.dim, attended = s.heads * s.dim;
  std::vector<float> residual = std::vector<float>(n * s.hidden);
  // The results of a product, and its x: as rows, and bundled.
  std::vector<float> sums = std::vector<float>(n * std::max({qkv, s.hidden, 2 * s.width}));
  std::vector<float> rows = std::vector<float>(n * std::max({s.hidden, s.width, attended}));
  xplore::Bundled bundled{product, n, std::max({s.hidden, s.width, attended})};

  template <class F>
  void each_row(int64_t numbers, const F& f) const {
    at::parallel_for(0, n, std::max<int64_t>(1, kGrain / numbers), [&](int64_t b, int64_t e) {
      for (int64_t r = b; r < e; ++r) f(r);
    });
  }

  void put(int64_t row, int64_t k, int64_t from, const float* numbers, int64_t count) {
    xplore::skinny_put(product, bundled.data(), n, k, row, from, numbers, count);
  }

  void multiply(const Tensor* w, int64_t k) {
    const int64_t out = w->size(0);
    at::parallel_for(0, out, std::max<int64_t>(12, 65536 / (n * k)), [&](int64_t b, int64_t e) {
      xplore::skinny(product, bundled.data(), w->const_data_ptr(), sums.data(), n, k, b, e, out);
    });
  }

  // residual += what the last product gave, and its norm is the next product's x.
  void enter(bool add, const Tensor* bias, const Tensor* norm) {
    each_row(s.hidden, [&](int64_t r) {
      float* x = rows.data() + r * s.hidden;
      xplore::add_and_norm(s, &residual[r * s.hidden], add ? &sums[r * s.hidden] : nullptr, data<T>(bias),
                           data<T>(norm), x);
      put(r, s.hidden, 0, x, s.hidden);
    });
  }

  void attend(const XtPagedLayer& layer) {
    const xplore::HeadWeights<T> weights{data<T>(layer.qkv_bias), data<T>(layer.q_norm), data<T>(layer.k_norm)};
    T *keys = static_cast<T*>(layer.keys->data_ptr()), *values = static_cast<T*>(layer.values->data_ptr());
    const int64_t head = s.dim * kBlock, block = s.kv_heads * head, half = s.dim / 2;
    each_row(qkv, [&](int64_t r) {
      const int64_t at = t.slots[r] / kBlock * block;
      xplore::queries_keys_values(s, weights, &sums[r * qkv], t.cos + r * half, t.sin + r * half, keys + at,
                                  values + at, t.slots[r] % kBlock);
    });
    const xplore::PagedCache<T> cache{keys, values, s.heads, s.kv_heads, s.dim, scale};
    xplore::attend_paged(cache, t.queries, sums.data(), qkv, rows.data(), attended,
                         [&](int64_t r, int64_t first, int64_t count) {
                           float* out = &rows[r * attended + first * s.dim];
                           if (sizeof(T) == 2) xplore::round_to_bf16(out, count * s.dim);
                           put(r, attended, first * s.dim, out, count * s.dim);
                         });
  }

  void run(const T* x, T* y, const XtPagedLayer* layers, int64_t count) {
    for (int64_t i = 0; i < n * s.hidden; ++i) residual[i] = wide(x[i]);
    const Tensor* bias = nullptr;
    for (int64_t l = 0; l < count; ++l) {
      const XtPagedLayer& layer = layers[l];
      enter(l > 0, bias, layer.input_norm);
      multiply(layer.qkv, s.hidden);
      attend(layer);
      multiply(layer.o, attended);
      enter(true, layer.o_bias, layer.post_norm);
      multiply(layer.gate_up, s.hidden);
      each_row(2 * s.width, [&](int64_t r) {
        float* gated = rows.data() + r * s.width;
        xplore::gate(s, data<T>(layer.gate_up_bias), &sums[r * 2 * s.width], gated);
        put(r, s.width, 0, gated, s.width);
      });
      multiply(layer.down, s.width);
      bias = layer.down_bias;
    }
    each_row(s.hidden, [&](int64_t r) {
      xplore::add(s, &residual[r * s.hidden], &sums[r * s.hidden], data<T>(bias), y + r * s.hidden);
    });
  }

  static float wide(float x) { return x; }
  static float wide(uint16_t x) { return static_cast<float>(at::BFloat16(x, at::BFloat16::from_bits())); }
};

}  // namespace

extern "C" {

// Whether xt_paged_layers can do it.
int xt_has_paged_layers(int bf16) {
  return xplore::skinny_product(bf16 != 0) != Product::kNone && !xplore::emulates_gpu();
}

// x [n, hidden] → the last layer's output; keys and values of the new tokens are written to the cache.
int xt_paged_layers(Tensor* x, const XtPagedLayer* layers, int64_t count, const XtPagedTokens* tokens, int64_t width,
                    int64_t heads, int64_t kv_heads, int64_t dim, double eps, double scale, Tensor** result) {
  return xplore::guarded([&] {
    const RowShape shape{x->size(1), width, heads, kv_heads, dim, static_cast<float>(eps)};
    Tensor in = x->contiguous(), out = at::empty_like(in);
    const auto run = [&](auto zero) {
      using T = decltype(zero);
      Pass<T>{shape, *tokens, static_cast<float>(scale)}.run(
          static_cast<const T*>(in.const_data_ptr()), static_cast<T*>(out.mutable_data_ptr()), layers, count);
    };
    if (x->scalar_type() == at::kFloat)
      run(float{});
    else
      run(uint16_t{});
    *result = new Tensor(out);
  });
}
}
