// CPU loops over fp32 and bf16 values (bf16 is held as its bits). Every function processes the rows [begin, end), so
// that the caller can split the work. Sums are fp32; in bf16, each stored value is rounded once.
#pragma once
#include <cstdint>

namespace xplore {

// y[r,:] = w * x[r,:] / sqrt(mean(x[r,:]^2) + eps);  inv[r] saves the reciprocal root for the backward pass (bf16: may
// be null).
void rms_norm_rows(const float* x, const float* w, float* y, float* inv, int64_t begin, int64_t end, int64_t dim,
                   float eps);
void rms_norm_rows_bf16(const uint16_t* x, int64_t row_stride, const uint16_t* w, uint16_t* y, float* inv,
                        int64_t begin, int64_t end, int64_t dim, float eps);
// Computes dx of the above, and adds to dw unless it is null (the caller gives each thread its own dw).
void rms_norm_rows_backward(const float* dy, const float* x, const float* w, const float* inv, float* dx, float* dw,
                            int64_t begin, int64_t end, int64_t dim);
void rms_norm_rows_backward(const uint16_t* dy, const uint16_t* x, const uint16_t* w, const float* inv, uint16_t* dx,
                            float* dw, int64_t begin, int64_t end, int64_t dim);

// gate_up[r] = [gate | up] (2*width) -> out[r] = silu(gate) * up.
void swiglu_rows(const float* gate_up, float* out, int64_t begin, int64_t end, int64_t width);
void swiglu_rows_bf16(const uint16_t* gate_up, uint16_t* out, int64_t begin, int64_t end, int64_t width);
void swiglu_rows_backward(const float* dout, const float* gate_up, float* dgate_up, int64_t begin, int64_t end,
                          int64_t width);
void swiglu_rows_backward(const uint16_t* dout, const uint16_t* gate_up, uint16_t* dgate_up, int64_t begin, int64_t end,
                          int64_t width);

// Rotary embedding (row_kernels.h), cos/sin [rows, dim/2]. x is [rows, heads, dim] with `row_stride` elements between
// rows.
void rope_rows(const float* x, int64_t row_stride, const float* cos, const float* sin, float* y, int64_t begin,
               int64_t end, int64_t heads, int64_t dim, float sign);
void rope_rows_bf16(const uint16_t* x, int64_t row_stride, const float* cos, const float* sin, uint16_t* y,
                    int64_t begin, int64_t end, int64_t heads, int64_t dim);

struct HeadsShape {
  int64_t heads, kv_heads, dim;  // dim at most 512
  float eps;
};

// qkv [rows, heads + 2 kv_heads, dim] -> q, k (normalized by q_norm and k_norm unless those are null, then rotated) and
// v, each [rows, its heads, dim]. inv [rows, heads + kv_heads] saves the reciprocal roots of the norms.
// Maximum width of a head that qk_norm_rope supports.
constexpr int64_t kMostHeadDim = 512;

void qk_norm_rope(const HeadsShape&, const float* qkv, const float* q_norm, const float* k_norm, const float* cos,
                  const float* sin, float* q, float* k, float* v, float* inv, int64_t begin, int64_t end);
void qk_norm_rope(const HeadsShape&, const uint16_t* qkv, const uint16_t* q_norm, const uint16_t* k_norm,
                  const float* cos, const float* sin, uint16_t* q, uint16_t* k, uint16_t* v, float* inv, int64_t begin,
                  int64_t end);
// Computes dqkv of the above, and adds to the norms' gradients unless they are null.
void qk_norm_rope_backward(const HeadsShape&, const float* dq, const float* dk, const float* dv, const float* qkv,
                           const float* q_norm, const float* k_norm, const float* cos, const float* sin,
                           const float* inv, float* dqkv, float* dq_norm, float* dk_norm, int64_t begin, int64_t end);
void qk_norm_rope_backward(const HeadsShape&, const uint16_t* dq, const uint16_t* dk, const uint16_t* dv,
                           const uint16_t* qkv, const uint16_t* q_norm, const uint16_t* k_norm, const float* cos,
                           const float* sin, const float* inv, uint16_t* dqkv, float* dq_norm, float* dk_norm,
                           int64_t begin, int64_t end);

// logits [rows, vocab] -> logsumexp, log-probability of the target, entropy, [rows] each.
void cross_entropy_rows(const float* logits, const int64_t* targets, float* lse, float* logprobs, float* entropy,
                        int64_t begin, int64_t end, int64_t vocab);
// exponentials[r] = e^(logits[r] - most[r]); log_sum[r] = log of their sum. logits[r, i] - most[r] - log_sum[r],
// evaluated in that order, is the log-probability that cross_entropy_rows returns for target i.
void softmax_rows(const float* logits, float* exponentials, double* most, double* log_sum, int64_t begin, int64_t end,
                  int64_t vocab);
// Replaces logits with the gradient of sum_r coefficients[r] * logprobs[r] with respect to them.
void cross_entropy_rows_backward(float* logits, const int64_t* targets, const float* lse, const float* coefficients,
                                 int64_t begin, int64_t end, int64_t vocab);
// The same for sum_r coefficients[r] * logprobs[r] + entropy_coefficients[r] * entropy[r].
void cross_entropy_rows_backward(float* logits, const int64_t* targets, const float* lse, const float* coefficients,
                                 const float* entropy, const float* entropy_coefficients, int64_t begin, int64_t end,
                                 int64_t vocab);

// Sum of x[i]^2: fp32 over at most 1024 elements, double beyond.
double sum_of_squares(const float* x, int64_t begin, int64_t end);
double sum_of_squares(const uint16_t* x, int64_t begin, int64_t end);

// mask[i] = 0 with the given probability, else 1 / (1 - probability); depends only on seed and i.
void dropout_mask(float* mask, float probability, uint64_t seed, int64_t begin, int64_t end);

// grad[ids[t], :] += dy[t, :] for the columns [begin, end), in the order of t.
void embedding_backward(const float* dy, const int64_t* ids, int64_t tokens, float* grad, int64_t width, int64_t begin,
                        int64_t end);
void embedding_backward(const uint16_t* dy, const int64_t* ids, int64_t tokens, float* grad, int64_t width,
                        int64_t begin, int64_t end);
void embedding_backward(const uint16_t* dy, const int64_t* ids, int64_t tokens, uint16_t* grad, int64_t width,
                        int64_t begin, int64_t end);

}  // namespace xplore
