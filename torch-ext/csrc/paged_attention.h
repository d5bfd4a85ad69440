// Attention of new tokens over the cache on libtorch's threads, for whatever comes before and after it.
#pragma once
#include <ATen/Parallel.h>

#include <type_traits>
#include <vector>

#include "paged_kernels.h"

namespace xplore {

// Query i attends to the first length[i] positions of the blocks table[begin[i]…].
struct PagedQueries {
  const int32_t* table;
  const int64_t *begin, *length;
  int64_t n;
};

// A layer's cache (paged_kernels.h) and how it is read. T: float, or uint16_t for the bits of bf16.
template <class T>
struct PagedCache {
  const T *keys, *values;
  int64_t heads, kv_heads, dim;
  float scale;
};

// q and out: [n, heads, dim], with q_step and out_step numbers a token. done(token, head, count) is called when `count`
// heads of a token from `head` on are there, on the thread that made them.
template <class T, class Done>
void attend_paged(const PagedCache<T>& c, const PagedQueries& t, const float* q, int64_t q_step, float* out,
                  int64_t out_step, const Done& done) {
  const int64_t group = c.heads / c.kv_heads, head = c.dim * kBlock, most = std::max<int64_t>(1, kQueries / group);
  // Neighbouring positions of a row are worked on together.
  std::vector<int64_t> first{0};
  int64_t positions = 0;
  for (int64_t i = 0; i < t.n; ++i) {
    const bool follows = i > 0 && t.begin[i] == t.begin[i - 1] && t.length[i] == t.length[i - 1] + 1;
    if (i > 0 && !(follows && i - first.back() < most)) first.push_back(i);
    positions += t.length[i];
  }
  first.push_back(t.n);
  const int64_t runs = static_cast<int64_t>(first.size()) - 1;
  const int64_t item = std::max<int64_t>(1, positions / runs * c.dim * group);
  // Heads outside, tokens inside: rows with a common prefix find it in the CPU's cache.
  at::parallel_for(0, c.kv_heads * runs, std::max<int64_t>(1, 32768 / item), [&](int64_t b, int64_t e) {
    std::vector<float> scores;
    for (int64_t i = b; i < e; ++i) {
      const int64_t h = i / runs, token = first[i % runs], last = first[i % runs + 1] - 1, from = h * group * c.dim;
      scores.resize(kQueries * ((t.length[last] + kBlock - 1) / kBlock) * kBlock);
      const PagedHead one{c.keys + h * head, c.values + h * head,      c.kv_heads * head,       t.table + t.begin[last],
                          t.length[last],    last - token + 1,         group,                   c.dim,
                          q + token * q_step + from, q_step,           out + token * out_step + from, out_step,
                          scores.data(),     c.scale};
      if constexpr (std::is_same_v<T, float>)
        paged_head_f32(one);
      else
        paged_head_bf16(one);
      for (int64_t r = token; r <= last; ++r) done(r, h * group, group);
    }
  });
}

}  // namespace xplore
