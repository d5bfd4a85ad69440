#include "paged_kernels.h"

#include <cmath>

#include "numbers.h"

namespace xplore {

namespace {

// 16 floats. On CPUs with shorter registers the compiler takes several.
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Order __attribute__((vector_size(64)));

// 32 neighbouring numbers as two vectors: for fp32 the first and the second half, for bf16 the even and the odd ones, since
// a bf16 number is the upper half of an fp32 one.
INSIDE void load(const float* from, Floats& a, Floats& b) {
  std::memcpy(&a, from, sizeof a);
  std::memcpy(&b, from + 16, sizeof b);
}
INSIDE void load(const uint16_t* from, Floats& a, Floats& b) {
  Words both;
  std::memcpy(&both, from, sizeof both);
  a = (Floats)(both << 16);
  b = (Floats)(both & 0xffff0000u);
}

// The way back, from two vectors to 32 neighbouring floats.
template <class T>
INSIDE void store(float* to, Floats a, Floats b) {
  if (sizeof(T) == 2) {
    const Order low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
    const Floats even = a, odd = b;
    a = __builtin_shuffle(even, odd, low);
    b = __builtin_shuffle(even, odd, high);
  }
  std::memcpy(to, &a, sizeof a);
  std::memcpy(to + 16, &b, sizeof b);
}

// Scores of one block for G queries. Each key is loaded once; even and odd channels have sums of their own, or each
// addition would wait for the one before.
template <class T, int G>
INSIDE void block_scores(const T* k, const float* q, float* scores, int64_t stride, int64_t dim, float scale) {
  Floats acc[2][G][2] = {};
  for (int64_t d = 0; d < dim; d += 2) {
    for (int odd = 0; odd < 2; ++odd) {
      Floats a, b;
      load(k + (d + odd) * kBlock, a, b);
      for (int g = 0; g < G; ++g) {
        const float qd = q[g * dim + d + odd];
        acc[odd][g][0] += a * qd;
        acc[odd][g][1] += b * qd;
      }
    }
  }
  for (int g = 0; g < G; ++g)
    store<T>(scores + g * stride, (acc[0][g][0] + acc[1][g][0]) * scale, (acc[0][g][1] + acc[1][g][1]) * scale);
}

// out = p · v for G queries and 32·D channels; every value is loaded once and the sums stay in registers.
template <class T, int G, int D>
INSIDE void values(const T* v, int64_t step, const int32_t* table, int64_t length, const float* p, int64_t stride,
                   float* out, int64_t dim) {
  Floats acc[G][D][2] = {};
  for (int64_t t = 0; t < length; ++t) {
    const T* row = v + table[t / kBlock] * step + t % kBlock * dim;
    for (int d = 0; d < D; ++d) {
      Floats a, b;
      load(row + 32 * d, a, b);
      for (int g = 0; g < G; ++g) {
        acc[g][d][0] += a * p[g * stride + t];
        acc[g][d][1] += b * p[g * stride + t];
      }
    }
  }
  for (int g = 0; g < G; ++g)
    for (int d = 0; d < D; ++d) store<T>(out + g * dim + 32 * d, acc[g][d][0], acc[g][d][1]);
}

// Scores, softmax and weighted values of G queries.
template <class T, int G>
INSIDE void queries(const PagedHead& h, const float* q, float* out) {
  const T *keys = static_cast<const T*>(h.k), *vals = static_cast<const T*>(h.v);
  const int64_t blocks = (h.length + kBlock - 1) / kBlock, stride = blocks * kBlock;
  for (int64_t b = 0; b < blocks; ++b)
    block_scores<T, G>(keys + h.table[b] * h.step, q, h.scores + b * kBlock, stride, h.dim, h.scale);
  for (int g = 0; g < G; ++g) {
    float* p = h.scores + g * stride;
    float best = p[0], sum = 0;
    for (int64_t t = 1; t < h.length; ++t) best = p[t] > best ? p[t] : best;
    for (int64_t t = 0; t < h.length; ++t) {
      p[t] = expf(p[t] - best);
      sum += p[t];
    }
    const float norm = 1.0f / sum;
    for (int64_t t = 0; t < h.length; ++t) p[t] *= norm;
  }
  constexpr int kAtOnce = G > 2 ? 2 : 4;
  int64_t d = 0;
  for (; d + 32 * kAtOnce <= h.dim; d += 32 * kAtOnce)
    values<T, G, kAtOnce>(vals + d, h.step, h.table, h.length, h.scores, stride, out + d, h.dim);
  for (; d + 32 <= h.dim; d += 32)
    values<T, G, 1>(vals + d, h.step, h.table, h.length, h.scores, stride, out + d, h.dim);
  for (int64_t rest = d; rest < h.dim; ++rest) {
    for (int g = 0; g < G; ++g) {
      float sum = 0;
      for (int64_t t = 0; t < h.length; ++t)
        sum += h.scores[g * stride + t] * widen(vals[h.table[t / kBlock] * h.step + t % kBlock * h.dim + rest]);
      out[g * h.dim + rest] = sum;
    }
  }
}

template <class T>
INSIDE void paged_head(const PagedHead& h) {
  int64_t g = 0;
  for (; g + 4 <= h.group; g += 4) queries<T, 4>(h, h.q + g * h.dim, h.out + g * h.dim);
  for (; g + 2 <= h.group; g += 2) queries<T, 2>(h, h.q + g * h.dim, h.out + g * h.dim);
  for (; g < h.group; ++g) queries<T, 1>(h, h.q + g * h.dim, h.out + g * h.dim);
}

}  // namespace

EACH_CPU void paged_head_f32(const PagedHead& head) { paged_head<float>(head); }
EACH_CPU void paged_head_bf16(const PagedHead& head) { paged_head<uint16_t>(head); }

}  // namespace xplore
