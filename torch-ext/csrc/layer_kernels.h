// The operations of a layer between its products, for one token. Activations are fp32 values rounded to the model's
// dtype.
#pragma once
#include <cstdint>

namespace xplore {

struct RowShape {
  int64_t hidden, width;  // width of the MLP
  int64_t heads, kv_heads, dim;
  float eps;
};

// Maximum head dimension of these kernels.
constexpr int64_t kMostDim = 512;

// Bias and norm weights of the projected queries and keys; each may be null. T: float, or uint16_t for the bits of
// bf16.
template <class T>
struct HeadWeights {
  const T *bias, *q_norm, *k_norm;
};

// residual += sums + bias (unless sums is null); normed = norm(residual).
void add_and_norm(const RowShape&, float* residual, const float* sums, const float* bias, const float* norm,
                  float* normed);
void add_and_norm(const RowShape&, float* residual, const float* sums, const uint16_t* bias, const uint16_t* norm,
                  float* normed);
// The same without a norm, written to `out`.
void add(const RowShape&, const float* residual, const float* sums, const float* bias, float* out);
void add(const RowShape&, const float* residual, const float* sums, const uint16_t* bias, uint16_t* out);

// Turns sums [heads + 2 kv_heads, dim] into queries, keys and values: bias, head norms, rotation. Queries replace their
// sums. Keys and values go to position `place` of a cache block; `keys` and `values` point to the first head of that
// block.
void queries_keys_values(const RowShape&, const HeadWeights<float>&, float* sums, const float* cos, const float* sin,
                         float* keys, float* values, int64_t place);
void queries_keys_values(const RowShape&, const HeadWeights<uint16_t>&, float* sums, const float* cos, const float* sin,
                         uint16_t* keys, uint16_t* values, int64_t place);

// sums [gate | up] → gated.
void gate(const RowShape&, const float* bias, float* sums, float* gated);
void gate(const RowShape&, const uint16_t* bias, float* sums, float* gated);

// Rounds values to bf16 in place.
void round_to_bf16(float* numbers, int64_t count);

}  // namespace xplore
