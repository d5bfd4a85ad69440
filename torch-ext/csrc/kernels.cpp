#include "kernels.h"

#include <cstring>

#include "row_kernels.h"

namespace xplore {

EACH_CPU void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end,
                            int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) inv[r] = rms_norm_row(x + r * dim, w, y + r * dim, dim, eps);
}

EACH_CPU void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, float* inv,
                                 int64_t begin, int64_t end, int64_t dim, float eps) {
  for (int64_t r = begin; r < end; ++r) {
    const float scale = rms_norm_row(x + r * row_stride, w, y + r * dim, dim, eps);
    if (inv) inv[r] = scale;
  }
}

// dw may be null.
template <class T>
FORCE_INLINE void norm_row_backward(const T* dy, const T* x, const T* w, float scale, T* dx, float* dw, int64_t dim) {
  const float dot = sum_of(0, dim, [&](int64_t i) { return widen(dy[i]) * widen(w[i]) * widen(x[i]); });
  const float shrink = dot * scale * scale * scale / dim;
  for (int64_t i = 0; i < dim; ++i) put<T>(dx[i], widen(dy[i]) * widen(w[i]) * scale - widen(x[i]) * shrink);
  if (dw)
    for (int64_t i = 0; i < dim; ++i) dw[i] += widen(dy[i]) * widen(x[i]) * scale;
}

EACH_CPU void rms_norm_rows_backward(const float* dy, const float* x, const float* w, const float* inv, float* dx,
                                     float* dw, int64_t begin, int64_t end, int64_t dim) {
  for (int64_t r = begin; r < end; ++r) norm_row_backward(dy + r * dim, x + r * dim, w, inv[r], dx + r * dim, dw, dim);
}

EACH_CPU void rms_norm_rows_backward(const uint16_t* dy, const uint16_t* x, const uint16_t* w, const float* inv,
                                     uint16_t* dx, float* dw, int64_t begin, int64_t end, int64_t dim) {
  for (int64_t r = begin; r < end; ++r) norm_row_backward(dy + r * dim, x + r * dim, w, inv[r], dx + r * dim, dw, dim);
}

EACH_CPU void swiglu_rows(const float* gate_up, float* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r)
    swiglu_row<float>(gate_up + r * 2 * width, gate_up + (r * 2 + 1) * width, out + r * width, width);
}

EACH_CPU void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r)
    swiglu_row<uint16_t>(gate_up + r * 2 * width, gate_up + (r * 2 + 1) * width, out + r * width, width);
}

template <class T>
FORCE_INLINE void swiglu_row_backward(const T* d, const T* gate, const T* up, T* dgate, T* dup, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float g = widen(gate[i]), s = sigmoid(g), silu = g * s, u = widen(up[i]), di = widen(d[i]);
    put<T>(dup[i], di * silu);
    put<T>(dgate[i], di * u * (s + silu * (1.0f - s)));
  }
}

EACH_CPU void swiglu_rows_backward(const float* dout, const float* gate_up, float* d, int64_t begin, int64_t end,
                                   int64_t width) {
  for (int64_t r = begin; r < end; ++r) {
    const float* gate = gate_up + r * 2 * width;
    swiglu_row_backward(dout + r * width, gate, gate + width, d + r * 2 * width, d + (r * 2 + 1) * width, width);
  }
}

EACH_CPU void swiglu_rows_backward(const uint16_t* dout, const uint16_t* gate_up, uint16_t* d, int64_t begin,
                                   int64_t end, int64_t width) {
  for (int64_t r = begin; r < end; ++r) {
    const uint16_t* gate = gate_up + r * 2 * width;
    swiglu_row_backward(dout + r * width, gate, gate + width, d + r * 2 * width, d + (r * 2 + 1) * width, width);
  }
}

EACH_CPU void rope_rows(const float* x, int64_t row_stride, const float* cos, const float* sin, float* y, int64_t begin,
                        int64_t end, int64_t heads, int64_t dim, float sign) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t h = 0; h < heads; ++h)
      rope_row<float>(x + r * row_stride + h * dim, cos + r * dim / 2, sin + r * dim / 2, y + (r * heads + h) * dim,
                      dim, sign);
}

EACH_CPU void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                             int64_t begin, int64_t end, int64_t heads, int64_t dim) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t h = 0; h < heads; ++h)
      rope_row<uint16_t>(x + r * row_stride + h * dim, cos + r * dim / 2, sin + r * dim / 2, y + (r * heads + h) * dim,
                         dim, 1.0f);
}


// Forward pass of one query or key head: norm (unless w is null), then rotation.
template <class T>
FORCE_INLINE void head_forward(const T* x, const T* w, const float* cos, const float* sin, T* y, float* inv,
                               int64_t dim, float eps) {
  T normed[kMostHeadDim];
  if (w) *inv = rms_norm_row(x, w, normed, dim, eps);
  rope_row<T>(w ? normed : x, cos, sin, y, dim, 1.0f);
}

template <class T>
FORCE_INLINE void head_backward(const T* dy, const T* x, const T* w, const float* cos, const float* sin, T* dx,
                                float inv, float* dw, int64_t dim) {
  T turned[kMostHeadDim];
  rope_row<T>(dy, cos, sin, w ? turned : dx, dim, -1.0f);
  if (w) norm_row_backward(turned, x, w, inv, dx, dw, dim);
}

template <class T>
FORCE_INLINE void qk_norm_rope_rows(const HeadsShape& s, const T* qkv, const T* q_norm, const T* k_norm,
                                    const float* cos, const float* sin, T* q, T* k, T* v, float* inv, int64_t begin,
                                    int64_t end) {
  const int64_t all = s.heads + 2 * s.kv_heads;
  for (int64_t r = begin; r < end; ++r) {
    const T* row = qkv + r * all * s.dim;
    const float *c = cos + r * s.dim / 2, *n = sin + r * s.dim / 2;
    float* scale = inv + r * (s.heads + s.kv_heads);
    for (int64_t h = 0; h < s.heads; ++h)
      head_forward(row + h * s.dim, q_norm, c, n, q + (r * s.heads + h) * s.dim, scale + h, s.dim, s.eps);
    row += s.heads * s.dim;
    for (int64_t h = 0; h < s.kv_heads; ++h)
      head_forward(row + h * s.dim, k_norm, c, n, k + (r * s.kv_heads + h) * s.dim, scale + s.heads + h, s.dim, s.eps);
    row += s.kv_heads * s.dim;
    std::memcpy(v + r * s.kv_heads * s.dim, row, s.kv_heads * s.dim * sizeof(T));
  }
}

template <class T>
FORCE_INLINE void qk_norm_rope_rows_backward(const HeadsShape& s, const T* dq, const T* dk, const T* dv, const T* qkv,
                                             const T* q_norm, const T* k_norm, const float* cos, const float* sin,
                                             const float* inv, T* dqkv, float* dq_norm, float* dk_norm, int64_t begin,
                                             int64_t end) {
  const int64_t all = s.heads + 2 * s.kv_heads;
  for (int64_t r = begin; r < end; ++r) {
    const T* row = qkv + r * all * s.dim;
    T* out = dqkv + r * all * s.dim;
    const float *c = cos + r * s.dim / 2, *n = sin + r * s.dim / 2, *scale = inv + r * (s.heads + s.kv_heads);
    for (int64_t h = 0; h < s.heads; ++h)
      head_backward(dq + (r * s.heads + h) * s.dim, row + h * s.dim, q_norm, c, n, out + h * s.dim, scale[h], dq_norm,
                    s.dim);
    row += s.heads * s.dim, out += s.heads * s.dim;
    for (int64_t h = 0; h < s.kv_heads; ++h)
      head_backward(dk + (r * s.kv_heads + h) * s.dim, row + h * s.dim, k_norm, c, n, out + h * s.dim,
                    scale[s.heads + h], dk_norm, s.dim);
    out += s.kv_heads * s.dim;
    std::memcpy(out, dv + r * s.kv_heads * s.dim, s.kv_heads * s.dim * sizeof(T));
  }
}

#define HEADS_OF(T)                                                                                                    \
  EACH_CPU void qk_norm_rope(const HeadsShape& s, const T* qkv, const T* q_norm, const T* k_norm, const float* cos,    \
                             const float* sin, T* q, T* k, T* v, float* inv, int64_t begin, int64_t end) {             \
    qk_norm_rope_rows(s, qkv, q_norm, k_norm, cos, sin, q, k, v, inv, begin, end);                                     \
  }                                                                                                                    \
  EACH_CPU void qk_norm_rope_backward(const HeadsShape& s, const T* dq, const T* dk, const T* dv, const T* qkv,        \
                                      const T* q_norm, const T* k_norm, const float* cos, const float* sin,            \
                                      const float* inv, T* dqkv, float* dq_norm, float* dk_norm, int64_t begin,        \
                                      int64_t end) {                                                                   \
    qk_norm_rope_rows_backward(s, dq, dk, dv, qkv, q_norm, k_norm, cos, sin, inv, dqkv, dq_norm, dk_norm, begin, end); \
  }
HEADS_OF(float)
HEADS_OF(uint16_t)
#undef HEADS_OF

FORCE_INLINE float largest(const float* x, int64_t n) {
  float most[16];
  for (float& m : most) m = x[0];
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; ++l) most[l] = x[i + l] > most[l] ? x[i + l] : most[l];
  for (; i < n; ++i) most[0] = x[i] > most[0] ? x[i] : most[0];
  for (int l = 1; l < 16; ++l) most[0] = most[l] > most[0] ? most[l] : most[0];
  return most[0];
}

struct RowSums {
  float most;       // the maximum logit
  double sum;       // of e^(logit - most)
  double weighted;  // of e^(logit - most) · (logit - most)
};

// exponentials[i] = e^(row[i] - most), unless it is null. Sums of up to 1024 terms are fp32, and their total is double.
FORCE_INLINE RowSums row_sums(const float* row, int64_t vocab, float* exponentials) {
  RowSums found{largest(row, vocab), 0, 0};
  const auto add = [&](int64_t i, float& sum, float& weighted) {
    const float d = row[i] - found.most, e = exponential(d);
    if (exponentials) exponentials[i] = e;
    sum += e;
    weighted += e * d;
  };
  for (int64_t from = 0; from < vocab; from += 1024) {
    const int64_t to = from + 1024 < vocab ? from + 1024 : vocab;
    Lanes sums, weighted;
    int64_t i = from;
    for (; i + 16 <= to; i += 16)
      for (int l = 0; l < 16; ++l) add(i + l, sums.sum[l], weighted.sum[l]);
    for (int l = 0; i < to; ++i, ++l) add(i, sums.sum[l], weighted.sum[l]);
    found.sum += total(sums), found.weighted += total(weighted);
  }
  return found;
}

EACH_CPU void cross_entropy_rows(const float* logits, const int64_t* targets, float* lse, float* logprobs,
                                 float* entropy, int64_t begin, int64_t end, int64_t vocab) {
  for (int64_t r = begin; r < end; ++r) {
    const float* row = logits + r * vocab;
    const RowSums found = row_sums(row, vocab, nullptr);
    const double log_sum = std::log(found.sum);
    lse[r] = static_cast<float>(found.most + log_sum);
    logprobs[r] = static_cast<float>(row[targets[r]] - found.most - log_sum);
    entropy[r] = static_cast<float>(log_sum - found.weighted / found.sum);
  }
}

EACH_CPU void softmax_rows(const float* logits, float* exponentials, double* most, double* log_sum, int64_t begin,
                           int64_t end, int64_t vocab) {
  for (int64_t r = begin; r < end; ++r) {
    const RowSums found = row_sums(logits + r * vocab, vocab, exponentials + r * vocab);
    most[r] = found.most;
    log_sum[r] = std::log(found.sum);
  }
}

EACH_CPU void cross_entropy_rows_backward(float* logits, const int64_t* targets, const float* lse,
                                          const float* coefficients, int64_t begin, int64_t end, int64_t vocab) {
  for (int64_t r = begin; r < end; ++r) {
    float* row = logits + r * vocab;
    const float c = coefficients[r], l = lse[r];
    for (int64_t i = 0; i < vocab; ++i) row[i] = -c * exponential(row[i] - l);
    row[targets[r]] += c;
  }
}

EACH_CPU void cross_entropy_rows_backward(float* logits, const int64_t* targets, const float* lse,
                                          const float* coefficients, const float* entropy,
                                          const float* entropy_coefficients, int64_t begin, int64_t end,
                                          int64_t vocab) {
  for (int64_t r = begin; r < end; ++r) {
    float* row = logits + r * vocab;
    const float c = coefficients[r], l = lse[r], h = entropy[r], w = entropy_coefficients[r];
    for (int64_t i = 0; i < vocab; ++i) {
      const float d = row[i] - l;
      row[i] = -exponential(d) * (c + w * (d + h));
    }
    row[targets[r]] += c;
  }
}

template <class T>
FORCE_INLINE double squares(const T* x, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t from = begin; from < end; from += 1024) {
    const int64_t to = from + 1024 < end ? from + 1024 : end;
    sum += sum_of(from, to, [&](int64_t i) { return widen(x[i]) * widen(x[i]); });
  }
  return sum;
}
EACH_CPU double sum_of_squares(const float* x, int64_t begin, int64_t end) { return squares(x, begin, end); }
EACH_CPU double sum_of_squares(const uint16_t* x, int64_t begin, int64_t end) { return squares(x, begin, end); }

EACH_CPU void dropout_mask(float* mask, float probability, uint64_t seed, int64_t begin, int64_t end) {
  const float kept = 1.0f / (1.0f - probability);
  for (int64_t i = begin; i < end; ++i) {
    // splitmix64 (Steele et al. 2014) of the index.
    uint64_t z = seed + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(i + 1);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    mask[i] = static_cast<float>(static_cast<uint32_t>(z >> 40)) * 0x1p-24f < probability ? 0.0f : kept;
  }
}

template <class D, class G>
FORCE_INLINE void add_columns(const D* dy, const int64_t* ids, int64_t tokens, G* grad, int64_t width, int64_t begin,
                              int64_t end) {
  for (int64_t t = 0; t < tokens; ++t) {
    G* to = grad + ids[t] * width;
    const D* from = dy + t * width;
    for (int64_t i = begin; i < end; ++i) put<G>(to[i], widen(to[i]) + widen(from[i]));
  }
}

#define EMBEDDING_OF(D, G)                                                                                  \
  EACH_CPU void embedding_backward(const D* dy, const int64_t* ids, int64_t tokens, G* grad, int64_t width, \
                                   int64_t begin, int64_t end) {                                            \
    add_columns(dy, ids, tokens, grad, width, begin, end);                                                  \
  }
EMBEDDING_OF(float, float)
EMBEDDING_OF(uint16_t, float)
EMBEDDING_OF(uint16_t, uint16_t)
#undef EMBEDDING_OF

}  // namespace xplore
