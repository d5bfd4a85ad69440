#include "paged_kernels.h"

#include <cmath>

#include "numbers.h"

namespace xplore {

namespace {

// 16 floats. On CPUs with shorter registers the compiler takes several.
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Order __attribute__((vector_size(64)));

// 32 neighbouring numbers as two vectors: for fp32 the first and the second half, for bf16 the even and the odd ones,
// since a bf16 number is the upper half of an fp32 one.
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

// G queries: where each lies, where its result goes, how much it attends to.
template <int G>
struct Queries {
  const float* q[G];
  float* out[G];
  int64_t length[G];
  int64_t longest;
};

// Scores of one block. Each key is loaded once; even and odd channels have sums of their own, or each addition would
// wait for the one before.
template <class T, int G>
INSIDE void block_scores(const T* k, const Queries<G>& of, float* scores, int64_t stride, int64_t dim, float scale) {
  Floats acc[2][G][2] = {};
  for (int64_t d = 0; d < dim; d += 2) {
    for (int odd = 0; odd < 2; ++odd) {
      Floats a, b;
      load(k + (d + odd) * kBlock, a, b);
      for (int g = 0; g < G; ++g) {
        const float qd = of.q[g][d + odd];
        acc[odd][g][0] += a * qd;
        acc[odd][g][1] += b * qd;
      }
    }
  }
  for (int g = 0; g < G; ++g)
    store<T>(scores + g * stride, (acc[0][g][0] + acc[1][g][0]) * scale, (acc[0][g][1] + acc[1][g][1]) * scale);
}

// Scores become probabilities; what a query must not see gets none.
INSIDE void softmax(float* p, int64_t length, int64_t longest) {
  float best = p[0], sum = 0;
  for (int64_t t = 1; t < length; ++t) best = p[t] > best ? p[t] : best;
  for (int64_t t = 0; t < length; ++t) {
    p[t] = expf(p[t] - best);
    sum += p[t];
  }
  const float norm = 1.0f / sum;
  for (int64_t t = 0; t < length; ++t) p[t] *= norm;
  for (int64_t t = length; t < longest; ++t) p[t] = 0;
}

// Weighted values of 32·D channels from `d` on; every value is loaded once and the sums stay in registers.
template <class T, int G, int D>
INSIDE void weighted_values(const PagedHead& h, const Queries<G>& of, int64_t stride, int64_t d) {
  const T* values = static_cast<const T*>(h.v) + d;
  Floats acc[G][D][2] = {};
  for (int64_t t = 0; t < of.longest; ++t) {
    const T* row = values + h.table[t / kBlock] * h.step + t % kBlock * h.dim;
    for (int c = 0; c < D; ++c) {
      Floats a, b;
      load(row + 32 * c, a, b);
      for (int g = 0; g < G; ++g) {
        acc[g][c][0] += a * h.scores[g * stride + t];
        acc[g][c][1] += b * h.scores[g * stride + t];
      }
    }
  }
  for (int g = 0; g < G; ++g)
    for (int c = 0; c < D; ++c) store<T>(of.out[g] + d + 32 * c, acc[g][c][0], acc[g][c][1]);
}

template <class T, int G>
INSIDE void attend(const PagedHead& h, const Queries<G>& of) {
  const T *keys = static_cast<const T*>(h.k), *values = static_cast<const T*>(h.v);
  const int64_t blocks = (of.longest + kBlock - 1) / kBlock, stride = blocks * kBlock;
  for (int64_t b = 0; b < blocks; ++b)
    block_scores<T, G>(keys + h.table[b] * h.step, of, h.scores + b * kBlock, stride, h.dim, h.scale);
  for (int g = 0; g < G; ++g) softmax(h.scores + g * stride, of.length[g], of.longest);
  constexpr int kAtOnce = G > 2 ? 2 : 4;
  int64_t d = 0;
  for (; d + 32 * kAtOnce <= h.dim; d += 32 * kAtOnce) weighted_values<T, G, kAtOnce>(h, of, stride, d);
  for (; d + 32 <= h.dim; d += 32) weighted_values<T, G, 1>(h, of, stride, d);
  for (; d < h.dim; ++d) {
    for (int g = 0; g < G; ++g) {
      float sum = 0;
      for (int64_t t = 0; t < of.longest; ++t)
        sum += h.scores[g * stride + t] * widen(values[h.table[t / kBlock] * h.step + t % kBlock * h.dim + d]);
      of.out[g][d] = sum;
    }
  }
}

// Queries first to first + G of all tokens' ones.
template <class T, int G>
INSIDE void some(const PagedHead& h, int64_t first) {
  Queries<G> of;
  for (int g = 0; g < G; ++g) {
    const int64_t token = (first + g) / h.group, head = (first + g) % h.group;
    of.q[g] = h.q + token * h.q_step + head * h.dim;
    of.out[g] = h.out + token * h.out_step + head * h.dim;
    of.length[g] = of.longest = h.length - (h.tokens - 1 - token);
  }
  attend<T, G>(h, of);
}

template <class T>
INSIDE void paged_head(const PagedHead& h) {
  const int64_t all = h.tokens * h.group;
  int64_t i = 0;
  for (; i + 4 <= all; i += 4) some<T, 4>(h, i);
  for (; i + 2 <= all; i += 2) some<T, 2>(h, i);
  for (; i < all; ++i) some<T, 1>(h, i);
}

}  // namespace

EACH_CPU void paged_head_f32(const PagedHead& head) { paged_head<float>(head); }
EACH_CPU void paged_head_bf16(const PagedHead& head) { paged_head<uint16_t>(head); }

}  // namespace xplore
