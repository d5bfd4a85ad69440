// The kernels of attention.h for the instruction set that isa.h selects.
#pragma once
#include "attention.h"
#include "isa.h"

namespace xplore {
namespace {

// acc[r][c] += a[r, k] · b[k, c] over `depth`; rows of b are `b_step` elements apart.
template <class T, int R, int C>
FORCE_INLINE void accumulate(Vec (&acc)[R][C], const float* a, int64_t a_row, const T* b, int64_t b_step,
                             int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, ++a, b += b_step) {
    Vec w[C];
    for (int c = 0; c < C; ++c) w[c] = load(b + c * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec x = broadcast(a[r * a_row]);
      for (int c = 0; c < C; ++c) acc[r][c] = fma(x, w[c], acc[r][c]);
    }
  }
}

// Scores of R rows on the keys of one block. With few rows, more vectors are in flight, or each multiply-add would wait
// for the previous one.
template <class T, int R>
FORCE_INLINE void block_scores(const AttentionTile& t, int64_t first, const T* keys, float* scores, int64_t stride) {
  constexpr int C = R > kTileRows / 2 ? 2 : kBlock / kLanes;
  for (int64_t at = 0; at < kBlock; at += C * kLanes) {
    Vec acc[R][C];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) acc[r][c] = zero();
    accumulate<T, R, C>(acc, t.q + first * t.dim, t.dim, keys + at, kBlock, t.dim);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) store(scores + (first + r) * stride + at + c * kLanes, acc[r][c]);
  }
}

template <class T, int R, int C>
FORCE_INLINE void weighted_columns(const AttentionTile& t, int64_t first, const float* p, int64_t stride,
                                   const T* values, int64_t count, int64_t d) {
  Vec acc[R][C];
  float* out = t.out + first * t.dim + d;
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = load(out + r * t.dim + c * kLanes);
  accumulate<T, R, C>(acc, p, stride, values + d, t.dim, count);
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) store(out + r * t.dim + c * kLanes, acc[r][c]);
}

// Adds the first `count` values of a block, weighted, to the output of R rows.
template <class T, int R>
FORCE_INLINE void weighted_values(const AttentionTile& t, int64_t first, const float* p, int64_t stride,
                                  const T* values, int64_t count) {
  constexpr int C = R > kTileRows / 2 ? 2 : 4;
  int64_t d = 0;
  for (; d + C * kLanes <= t.dim; d += C * kLanes) weighted_columns<T, R, C>(t, first, p, stride, values, count, d);
  for (; d + kLanes <= t.dim; d += kLanes) weighted_columns<T, R, 1>(t, first, p, stride, values, count, d);
  for (; d < t.dim; ++d) {
    for (int r = 0; r < R; ++r) {
      float& out = t.out[(first + r) * t.dim + d];
      for (int64_t i = 0; i < count; ++i) out = __builtin_fmaf(p[r * stride + i], widen(values[i * t.dim + d]), out);
    }
  }
}

// Replaces the scores of a row with exponentials, and zeros from its length up to `end`. Returns their sum and the
// maximum score.
FORCE_INLINE void softmax(float* s, int64_t length, int64_t end, float scale, float& sum, float& best) {
  for (int64_t t = 0; t < length; ++t) s[t] *= scale;
  float most[16];
  for (float& m : most) m = s[0];
  int64_t t = 0;
  for (; t + 16 <= length; t += 16)
    for (int l = 0; l < 16; ++l) most[l] = s[t + l] > most[l] ? s[t + l] : most[l];
  for (; t < length; ++t) most[0] = s[t] > most[0] ? s[t] : most[0];
  best = most[0];
  for (int l = 1; l < 16; ++l) best = most[l] > best ? most[l] : best;
  Lanes lanes;
  for (t = 0; t + 16 <= length; t += 16) {
    for (int l = 0; l < 16; ++l) {
      s[t + l] = exponential(s[t + l] - best);
      lanes.sum[l] += s[t + l];
    }
  }
  for (int l = 0; t < length; ++t, ++l) {
    s[t] = exponential(s[t] - best);
    lanes.sum[l] += s[t];
  }
  for (; t < end; ++t) s[t] = 0;
  sum = total(lanes);
}

template <class T, int R>
void scores_of(const AttentionTile& t, int64_t first, const T* keys, float* scores, int64_t stride) {
  block_scores<T, R>(t, first, keys, scores, stride);
}
template <class T, int R>
void values_of(const AttentionTile& t, int64_t first, const float* p, int64_t stride, const T* values, int64_t count) {
  weighted_values<T, R>(t, first, p + first * stride, stride, values, count);
}

template <class T>
using ScoresOf = void (*)(const AttentionTile&, int64_t, const T*, float*, int64_t);
template <class T>
using ValuesOf = void (*)(const AttentionTile&, int64_t, const float*, int64_t, const T*, int64_t);

template <class T, int... R>
void attend_rows(const AttentionTile& t, std::integer_sequence<int, R...>) {
  static constexpr ScoresOf<T> kScores[] = {scores_of<T, R + 1>...};
  static constexpr ValuesOf<T> kValues[] = {values_of<T, R + 1>...};
  const T *keys = static_cast<const T*>(t.keys), *values = static_cast<const T*>(t.values);
  const int64_t tiles = (t.rows + kTileRows - 1) / kTileRows;
  int64_t longest = 0;
  for (int64_t r = 0; r < t.rows; ++r) longest = t.length[r] > longest ? t.length[r] : longest;
  const int64_t blocks = (longest + kBlock - 1) / kBlock, stride = blocks * kBlock;
  const auto first_of = [&](int64_t tile) { return t.rows * tile / tiles; };
  // The maximum number of positions that any row of a tile attends to.
  const auto longest_of = [&](int64_t tile) {
    int64_t most = 0;
    for (int64_t r = first_of(tile); r < first_of(tile + 1); ++r) most = t.length[r] > most ? t.length[r] : most;
    return most;
  };
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = first_of(i);
      if (longest_of(i) > b * kBlock)
        kScores[first_of(i + 1) - first - 1](t, first, keys + t.table[b] * t.block_stride, t.scores + b * kBlock,
                                             stride);
    }
  }
  float sums[kMostRows];
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t end = longest_of(i);
    for (int64_t r = first_of(i); r < first_of(i + 1); ++r) {
      float best;
      softmax(t.scores + r * stride, t.length[r], end, t.scale, sums[r], best);
      if (t.lse) t.lse[r] = best + static_cast<float>(std::log(static_cast<double>(sums[r])));
    }
  }
  std::memset(t.out, 0, t.rows * t.dim * sizeof(float));
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t first = first_of(i), left = longest_of(i) - b * kBlock;
      if (left > 0)
        kValues[first_of(i + 1) - first - 1](t, first, t.scores + b * kBlock, stride,
                                             values + t.table[b] * t.block_stride, left < kBlock ? left : kBlock);
    }
  }
  for (int64_t r = 0; r < t.rows; ++r)
    for (int64_t d = 0; d < t.dim; ++d) t.out[r * t.dim + d] /= sums[r];
}

void attend(const AttentionTile& t) {
  constexpr auto kRows = std::make_integer_sequence<int, kTileRows>();
  if (t.bf16)
    attend_rows<uint16_t>(t, kRows);
  else
    attend_rows<float>(t, kRows);
}

}  // namespace
}  // namespace xplore
