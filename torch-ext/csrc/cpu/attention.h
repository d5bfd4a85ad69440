// Softmax attention in which every result is a fixed sequence of operations on the positions that a query attends to,
// independent of what else is computed in the same call:
//   score[t] = (chain of fused multiply-adds of q[d] · k[t, d] over d) · scale
//   p[t]     = exp(score[t] - max), sum = the 16 sums of p over t ≡ l (mod 16), added pairwise (numbers.h, Lanes)
//   out[d]   = (chain of fused multiply-adds of p[t] · v[t, d] over t) / sum
// A token therefore gets the same bits as part of a prompt, as a new token over the cache, and in training.
#pragma once
#include <cstdint>

namespace xplore {

// Number of positions per block of keys and values.
constexpr int64_t kBlock = 32;
// Maximum number of rows per tile.
constexpr int64_t kMostRows = 64;

// Queries of one key/value head that attend to a prefix of one sequence.
struct AttentionTile {
  // Keys are stored as [dim, kBlock] per block, values as [kBlock, dim]; fp32 or the bits of bf16. `keys` and `values`
  // point to this head in block 0, `block_stride` is the distance between blocks in elements, and `table` holds the
  // blocks of the sequence.
  const void *keys, *values;
  bool bf16;
  int64_t block_stride;
  const int32_t* table;
  int64_t dim;
  float scale;
  int64_t rows;
  const float* q;         // [rows, dim]
  const int64_t* length;  // [rows]: positions that each row attends to, at least 1
  float* out;             // [rows, dim]
  float* lse;             // [rows]: log of the sum of exponentials of scores; may be null
  float* scores;          // room for [rows, longest length rounded up to kBlock]
};

struct AttentionKernels {
  // Number of rows that share a load of a key or a value.
  int64_t tile_rows;
  void (*attend)(const AttentionTile&);
};

extern const AttentionKernels kAttentionPortable;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const AttentionKernels kAttentionAvx2, kAttentionAvx512;
#endif

}  // namespace xplore
