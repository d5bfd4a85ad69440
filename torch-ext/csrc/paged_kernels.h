// Attention of few query positions over keys and values that lie in blocks. Plain loops, compiled for several CPUs.
#pragma once
#include <cstdint>

namespace xplore {

constexpr int64_t kBlock = 32;

// One query position, one key/value head. Keys lie [blocks, kv_heads, dim, kBlock], values [blocks, kv_heads, kBlock,
// dim]; `k` and `v` point to this head in block 0, `step` is the distance between blocks.
struct PagedHead {
  const void* k;
  const void* v;
  int64_t step;
  const int32_t* table;
  int64_t length;
  const float* q;  // [group, dim]
  float* out;      // [group, dim]
  float* scores;   // room for [group, length rounded up to kBlock]
  int64_t group;
  int64_t dim;     // even
  float scale;
};

void paged_head_f32(const PagedHead& head);
void paged_head_bf16(const PagedHead& head);

}  // namespace xplore
