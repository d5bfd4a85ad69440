// Log-probabilities and entropies of logits, and their backward pass in place: the GPU counterpart of
// csrc/cross_entropy.cpp.

constexpr unsigned kLossWarps = 8;

// Reduces over a block of kLossWarps warps, each of which contributes its own `x`; every thread receives the result.
template <class F>
__device__ inline float over_block(float x, F&& join) {
  __shared__ float found[kLossWarps];
  // All threads must have read the previous call's values before they are overwritten.
  __syncthreads();
  if (threadIdx.x % kWarp == 0) found[threadIdx.x / kWarp] = x;
  __syncthreads();
  float all = found[0];
  for (unsigned w = 1; w < kLossWarps; ++w) all = join(all, found[w]);
  return all;
}
__device__ inline float block_sum(float x) {
  return over_block(warp_sum(x), [](float a, float b) { return a + b; });
}
__device__ inline float block_most(float x) {
  return over_block(warp_most(x), [](float a, float b) { return fmaxf(a, b); });
}

// logits [rows, vocab] -> logsumexp, log-probability of the target, entropy, [rows] each; one block per row.
extern "C" __global__ void cross_entropy_f32(const float* logits, const i64* targets, float* lse, float* logprobs,
                                             float* entropy, i64 vocab) {
  const i64 row = blockIdx.x;
  const float* x = logits + row * vocab;
  float most = -infinity();
  for (i64 i = threadIdx.x; i < vocab; i += blockDim.x) most = fmaxf(most, x[i]);
  most = block_most(most);
  float sum = 0, weighted = 0;
  for (i64 i = threadIdx.x; i < vocab; i += blockDim.x) {
    const float d = x[i] - most, e = expf(d);
    sum += e;
    // A logit of minus infinity does not contribute to the entropy.
    if (e > 0) weighted += e * d;
  }
  sum = block_sum(sum), weighted = block_sum(weighted);
  if (threadIdx.x > 0) return;
  const float log_sum = logf(sum);
  const i64 target = targets[row];
  lse[row] = most + log_sum;
  // An out-of-range target gives NaN instead of a plausible value.
  logprobs[row] = target >= 0 && target < vocab ? x[target] - most - log_sum : __uint_as_float(0x7fffffffu);
  entropy[row] = log_sum - weighted / sum;
}

// Replaces logits with the gradient of sum_r c[r] logprobs[r] + w[r] entropy[r] with respect to them; entropy and w may
// be null. One thread per element; blockIdx.y: the row.
extern "C" __global__ void cross_entropy_input_f32(float* logits, const i64* targets, const float* lse, const float* c,
                                                   const float* entropy, const float* w, i64 vocab) {
  const i64 i = thread_number(), row = blockIdx.y;
  if (i >= vocab) return;
  float* x = logits + row * vocab + i;
  const float d = *x - lse[row], p = expf(d);
  const float slope = entropy && p > 0 ? c[row] + w[row] * (d + entropy[row]) : c[row];
  *x = (i == targets[row] ? c[row] : 0.0f) - p * slope;
}
