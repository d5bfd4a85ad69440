// The steps of a layer between its products, for one token. Activations are fp32 numbers rounded to the model's type.
#pragma once
#include <cstdint>

namespace xplore {

struct RowShape {
  int64_t hidden, width;  // width of the MLP
  int64_t heads, kv_heads, dim;
  float eps;
};

// Head dimensions beyond this are not for these kernels.
constexpr int64_t kMostDim = 512;

// What projected queries and keys meet before they are used; each may be null. T: float, or the bits of bf16.
template <class T>
struct HeadWeights {
  const T *bias, *q_norm, *k_norm;
};

// residual += sums + bias (nothing if sums is null); normed = norm(residual).
void add_and_norm(const RowShape&, float* residual, const float* sums, const float* bias, const float* norm,
                  float* normed);
void add_and_norm(const RowShape&, float* residual, const float* sums, const uint16_t* bias, const uint16_t* norm,
                  float* normed);
// As above without a norm, to the output.
void add(const RowShape&, const float* residual, const float* sums, const float* bias, float* out);
void add(const RowShape&, const float* residual, const float* sums, const uint16_t* bias, uint16_t* out);

// sums [heads + 2 kv_heads, dim] become queries, keys and values: bias, head norms, rotation. Queries take the place of
// their sums; keys and values go to `place` of a block of the cache, whose first head `keys` and `values` point to.
void queries_keys_values(const RowShape&, const HeadWeights<float>&, float* sums, const float* cos, const float* sin,
                         float* keys, float* values, int64_t place);
void queries_keys_values(const RowShape&, const HeadWeights<uint16_t>&, float* sums, const float* cos, const float* sin,
                         uint16_t* keys, uint16_t* values, int64_t place);

// sums [gate | up] → gated.
void gate(const RowShape&, const float* bias, float* sums, float* gated);
void gate(const RowShape&, const uint16_t* bias, float* sums, float* gated);

// Rounds numbers to bf16.
void round_to_bf16(float* numbers, int64_t count);

}  // namespace xplore
