// Attention of few query positions over keys and values that lie in blocks. Plain loops, compiled for several CPUs.
#pragma once
#include <cstdint>

namespace xplore {

constexpr int64_t kBlock = 32;

// Neighbouring query positions of one row, one key/value head. Keys lie [blocks, kv_heads, dim, kBlock], values
// [blocks, kv_heads, kBlock, dim]; `k` and `v` point to this head in block 0, `step` is the distance between blocks.
struct PagedHead {
  const void* k;
  const void* v;
  int64_t step;
  const int32_t* table;
  int64_t length;   // what the last position attends to; each before it to one position less
  int64_t tokens;   // query positions
  int64_t group;    // queries of one position
  int64_t dim;      // even
  const float* q;   // [tokens, group, dim], with `q_step` between tokens
  int64_t q_step;
  float* out;       // as q
  int64_t out_step;
  float* scores;    // room for [kQueries, length rounded up to kBlock]
  float scale;
};

// Queries that are worked on at once, so that a key or a value is loaded once for all of them.
constexpr int kQueries = 4;

void paged_head_f32(const PagedHead& head);
void paged_head_bf16(const PagedHead& head);

}  // namespace xplore
