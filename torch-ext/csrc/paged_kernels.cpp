#include "paged_kernels.h"

#include <cmath>
#include <cstring>

#include "each_cpu.h"

namespace xplore {

namespace {

INSIDE float widen(float x) { return x; }
INSIDE float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Scores of one block for G queries: each key is loaded once.
template <class T, int G>
INSIDE void block_scores(const T* k, const float* q, float* scores, int64_t stride, int64_t dim, float scale) {
  float acc[G][kBlock] = {};
  for (int64_t d = 0; d < dim; ++d) {
    for (int g = 0; g < G; ++g) {
      const float qd = q[g * dim + d];
      for (int64_t t = 0; t < kBlock; ++t) acc[g][t] += qd * widen(k[d * kBlock + t]);
    }
  }
  for (int g = 0; g < G; ++g)
    for (int64_t t = 0; t < kBlock; ++t) scores[g * stride + t] = acc[g][t] * scale;
}

// out += p · v over `count` positions of a block, four at a time.
template <class T>
INSIDE void block_values(const T* v, const float* p, float* out, int64_t count, int64_t dim) {
  int64_t t = 0;
  for (; t + 4 <= count; t += 4) {
    const T* v0 = v + t * dim;
    const float a = p[t], b = p[t + 1], c = p[t + 2], e = p[t + 3];
    for (int64_t d = 0; d < dim; ++d)
      out[d] += (a * widen(v0[d]) + b * widen(v0[dim + d])) + (c * widen(v0[2 * dim + d]) + e * widen(v0[3 * dim + d]));
  }
  for (; t < count; ++t)
    for (int64_t d = 0; d < dim; ++d) out[d] += p[t] * widen(v[t * dim + d]);
}

template <class T>
INSIDE void paged_head(const PagedHead& h) {
  const T* keys = static_cast<const T*>(h.k);
  const T* values = static_cast<const T*>(h.v);
  const int64_t blocks = (h.length + kBlock - 1) / kBlock, stride = blocks * kBlock;
  for (int64_t b = 0; b < blocks; ++b) {
    const T* k = keys + h.table[b] * h.step;
    int64_t g = 0;
    for (; g + 4 <= h.group; g += 4)
      block_scores<T, 4>(k, h.q + g * h.dim, h.scores + g * stride + b * kBlock, stride, h.dim, h.scale);
    for (; g + 2 <= h.group; g += 2)
      block_scores<T, 2>(k, h.q + g * h.dim, h.scores + g * stride + b * kBlock, stride, h.dim, h.scale);
    for (; g < h.group; ++g)
      block_scores<T, 1>(k, h.q + g * h.dim, h.scores + g * stride + b * kBlock, stride, h.dim, h.scale);
  }
  for (int64_t g = 0; g < h.group; ++g) {
    float* p = h.scores + g * stride;
    float best = p[0], sum = 0;
    for (int64_t t = 1; t < h.length; ++t) best = p[t] > best ? p[t] : best;
    for (int64_t t = 0; t < h.length; ++t) {
      p[t] = expf(p[t] - best);
      sum += p[t];
    }
    const float norm = 1.0f / sum;
    for (int64_t t = 0; t < h.length; ++t) p[t] *= norm;
    for (int64_t d = 0; d < h.dim; ++d) h.out[g * h.dim + d] = 0;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const T* v = values + h.table[b] * h.step;
    const int64_t left = h.length - b * kBlock;
    for (int64_t g = 0; g < h.group; ++g)
      block_values(v, h.scores + g * stride + b * kBlock, h.out + g * h.dim, left < kBlock ? left : kBlock, h.dim);
  }
}

}  // namespace

EACH_CPU void paged_head_f32(const PagedHead& head) { paged_head<float>(head); }
EACH_CPU void paged_head_bf16(const PagedHead& head) { paged_head<uint16_t>(head); }

}  // namespace xplore
