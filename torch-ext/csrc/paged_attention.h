// Attention over a cache of blocks on libtorch's threads, independent of the operations before and after it.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/cpu.h"
#include "each_item.h"

namespace xplore {

// Query i attends to the first length[i] positions of the blocks table[begin[i]…].
struct PagedQueries {
  const int32_t* table;
  const int64_t *begin, *length;
  int64_t n;
};

// One layer's cache (cpu/attention.h), [blocks, kv_heads, …], and the attention parameters.
struct PagedCache {
  const void *keys, *values;
  bool bf16;
  int64_t heads, kv_heads, dim;
  float scale;
};

// q and out: [n, heads, dim], with q_step and out_step elements between tokens; lse: [n, heads], or null. Calls
// done(token, head, count) when `count` heads of a token from `head` on are complete, on the thread that computed them.
template <class Done>
void attend_paged(const PagedCache& c, const PagedQueries& t, const float* q, int64_t q_step, float* out,
                  int64_t out_step, float* lse, const Done& done) {
  if (t.n == 0) return;
  const AttentionKernels& kernels = attention_kernels();
  const int64_t group = c.heads / c.kv_heads, head_size = c.dim * kBlock, head_bytes = head_size * (c.bf16 ? 2 : 4);
  // Neighboring positions of a sequence are processed together, as many as keep their scores in the L2 cache.
  std::vector<int64_t> first{0};
  int64_t positions = 0;
  for (int64_t i = 0; i < t.n; ++i) {
    const bool follows = i > 0 && t.begin[i] == t.begin[i - 1] && t.length[i] == t.length[i - 1] + 1;
    const int64_t rows = std::clamp<int64_t>((96 << 10) / t.length[i], kernels.tile_rows, 4 * kernels.tile_rows);
    if (i > 0 && !(follows && (i - first.back() + 1) * group <= rows)) first.push_back(i);
    positions += t.length[i];
  }
  first.push_back(t.n);
  const int64_t runs = static_cast<int64_t>(first.size()) - 1;
  // Longest runs first, so that no thread starts a long one last. Heads are the outer dimension, so that sequences with
  // a common prefix find it in the CPU cache.
  each_item(c.kv_heads * runs, positions * c.heads * c.dim / 32768, [&](int64_t i) {
    const int64_t h = i / runs, run = runs - 1 - i % runs, begin = first[run], tokens = first[run + 1] - begin;
    const int64_t longest = t.length[begin + tokens - 1], blocks = (longest + kBlock - 1) / kBlock;
    thread_local std::vector<float> queries, result, scores;
    thread_local std::vector<int64_t> length;
    thread_local std::vector<float> sums;
    // The queries of this head for one token are split if they exceed a tile.
    const int64_t at_once = tokens == 1 ? std::min(group, kMostRows) : group;
    for (int64_t g = 0; g < group; g += at_once) {
      const int64_t heads = std::min(at_once, group - g), rows = tokens * heads, from = (h * group + g) * c.dim;
      queries.resize(rows * c.dim), result.resize(rows * c.dim), scores.resize(rows * blocks * kBlock);
      length.resize(rows), sums.resize(rows);
      for (int64_t r = 0; r < tokens; ++r) {
        std::copy_n(q + (begin + r) * q_step + from, heads * c.dim, queries.data() + r * heads * c.dim);
        std::fill_n(length.data() + r * heads, heads, t.length[begin + r]);
      }
      kernels.attend({static_cast<const char*>(c.keys) + h * head_bytes,
                      static_cast<const char*>(c.values) + h * head_bytes, c.bf16, c.kv_heads * head_size,
                      t.table + t.begin[begin], c.dim, c.scale, rows, queries.data(), length.data(), result.data(),
                      lse ? sums.data() : nullptr, scores.data()});
      for (int64_t r = 0; r < tokens; ++r) {
        std::copy_n(result.data() + r * heads * c.dim, heads * c.dim, out + (begin + r) * out_step + from);
        if (lse) std::copy_n(sums.data() + r * heads, heads, lse + (begin + r) * c.heads + h * group + g);
        done(begin + r, h * group + g, heads);
      }
    }
  });
}

}  // namespace xplore
