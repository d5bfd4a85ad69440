// The KV cache: writing to it and attending to it. Keys are stored as [blocks, kv_heads, dim, 32], values as
// [blocks, kv_heads, 32, dim], as on a CPU.
constexpr i64 kBlock = 32;

// Writes k, v [n, kv_heads, dim] to positions slots[n]; one thread per element.
template <class T>
__device__ void write_paged(const T* k, const T* v, T* keys, T* values, const i64* slots, i64 n, i64 kv_heads,
                            i64 dim) {
  const i64 at = thread_number(), d = at % dim, head = at / dim % kv_heads, token = at / dim / kv_heads;
  if (token >= n) return;
  const i64 place = slots[token] % kBlock, first = (slots[token] / kBlock * kv_heads + head) * dim * kBlock;
  keys[first + d * kBlock + place] = k[at];
  values[first + place * dim + d] = v[at];
}

constexpr unsigned kWarps = 4;

// Attention of query blockIdx.x over part blockIdx.z of its positions, for the group of query heads that share the
// key/value head blockIdx.y. kWarps warps iterate over the blocks of the cache, each with its own softmax; the results
// are merged at the end (as in flash decoding, Dao et al. 2023). Each key and value is read once. A lane scores one
// position of a block and holds FOURS times four channels of the output.
//
// q [n, heads, dim]; query i attends to the first length[i] positions of the blocks table[begin[i]...]. With one part,
// the output goes to out [n, heads, dim]. Otherwise it goes unnormalized to parts [n, heads, parts, dim + 2], whose
// last two elements are the maximum score and the sum of the exponentials. group is at most GROUP; dim is at most 128
// FOURS and a multiple of 4.
template <class T, int GROUP, int FOURS>
__device__ void paged_attention(const T* q, const T* keys, const T* values, const int* table, const i64* begin,
                                const i64* length, T* out, float* parts, i64 heads, i64 kv_heads, i64 dim,
                                float scale) {
  constexpr int kDim = FOURS * 128;
  alignas(16) __shared__ float query[GROUP][kDim];
  __shared__ float sums[kWarps][GROUP][kDim], most[kWarps][GROUP], total[kWarps][GROUP];
  const i64 i = blockIdx.x, kv = blockIdx.y, part = blockIdx.z, group = heads / kv_heads;
  const i64 lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, end = length[i];
  for (i64 at = threadIdx.x; at < GROUP * kDim; at += blockDim.x) {
    const i64 g = at / kDim, d = at % kDim;
    query[g][d] = g < group && d < dim ? widen(q[(i * heads + kv * group + g) * dim + d]) * scale : 0.0f;
  }
  __syncthreads();

  const i64 blocks = (end + kBlock - 1) / kBlock, each = (blocks + gridDim.z - 1) / gridDim.z;
  const i64 from = part * each, to = from + each < blocks ? from + each : blocks;
  float m[GROUP], l[GROUP], acc[GROUP][FOURS * 4];
  for (int g = 0; g < GROUP; ++g) {
    m[g] = -infinity(), l[g] = 0;
    for (int j = 0; j < FOURS * 4; ++j) acc[g][j] = 0;
  }
  for (i64 b = from + warp; b < to; b += kWarps) {
    const i64 first = (table[begin[i] + b] * kv_heads + kv) * dim * kBlock;
    const T* key = keys + first + lane;
    float score[GROUP];
    for (int g = 0; g < GROUP; ++g) score[g] = 0;
    for (i64 d = 0; d < dim; d += 4) {
      const float k0 = widen(key[d * kBlock]), k1 = widen(key[(d + 1) * kBlock]);
      const float k2 = widen(key[(d + 2) * kBlock]), k3 = widen(key[(d + 3) * kBlock]);
#pragma unroll
      for (int g = 0; g < GROUP; ++g) {
        const Four<float> a = four(&query[g][d]);
        score[g] += a.at[0] * k0 + a.at[1] * k1 + a.at[2] * k2 + a.at[3] * k3;
      }
    }
    const i64 positions = end - b * kBlock < kBlock ? end - b * kBlock : kBlock;
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      // Block b holds at least one position, so the maximum score is finite.
      const float s = lane < positions ? score[g] : -infinity(), highest = fmaxf(m[g], warp_most(s));
      const float shrink = expf(m[g] - highest);
      score[g] = expf(s - highest);
      l[g] = l[g] * shrink + warp_sum(score[g]);
      m[g] = highest;
      for (int j = 0; j < FOURS * 4; ++j) acc[g][j] *= shrink;
    }
    const T* value = values + first;
    for (i64 position = 0; position < positions; ++position) {
      float weight[GROUP];
#pragma unroll
      for (int g = 0; g < GROUP; ++g) weight[g] = __shfl_sync(kAll, score[g], position);
#pragma unroll
      for (int f = 0; f < FOURS; ++f) {
        const i64 d = f * 128 + lane * 4;
        if (d >= dim) continue;
        const Four<T> v = four(value + position * dim + d);
#pragma unroll
        for (int g = 0; g < GROUP; ++g)
          for (int j = 0; j < 4; ++j) acc[g][f * 4 + j] += weight[g] * widen(v.at[j]);
      }
    }
  }

  for (int g = 0; g < GROUP; ++g) {
    if (lane == 0) most[warp][g] = m[g], total[warp][g] = l[g];
    for (int f = 0; f < FOURS; ++f)
      for (int j = 0; j < 4; ++j) sums[warp][g][f * 128 + lane * 4 + j] = acc[g][f * 4 + j];
  }
  __syncthreads();
  for (i64 at = threadIdx.x; at < group * dim; at += blockDim.x) {
    const i64 g = at / dim, d = at % dim;
    float highest = -infinity(), sum = 0, joined = 0;
    for (unsigned w = 0; w < kWarps; ++w) highest = fmaxf(highest, most[w][g]);
    for (unsigned w = 0; w < kWarps; ++w) {
      // A warp without a block has neither a sum nor a score.
      const float share = most[w][g] == -infinity() ? 0.0f : expf(most[w][g] - highest);
      sum += share * total[w][g];
      joined += share * sums[w][g][d];
    }
    const i64 head = i * heads + kv * group + g;
    if (gridDim.z == 1) {
      put(out[head * dim + d], joined / sum);
      continue;
    }
    float* mine = parts + (head * gridDim.z + part) * (dim + 2);
    mine[d] = joined;
    if (d == 0) mine[dim] = highest, mine[dim + 1] = sum;
  }
}

// Merges parts [rows, count, dim + 2] into out [rows, dim]; one warp per row.
template <class T>
__device__ void join_parts(const float* parts, T* out, i64 rows, i64 count, i64 dim) {
  const i64 row = warp_number(), lane = threadIdx.x % kWarp, step = dim + 2;
  if (row >= rows) return;
  parts += row * count * step;
  float highest = -infinity(), sum = 0;
  for (i64 p = 0; p < count; ++p) highest = fmaxf(highest, parts[p * step + dim]);
  for (i64 p = 0; p < count; ++p) sum += expf(parts[p * step + dim] - highest) * parts[p * step + dim + 1];
  for (i64 d = lane; d < dim; d += kWarp) {
    float joined = 0;
    for (i64 p = 0; p < count; ++p) joined += expf(parts[p * step + dim] - highest) * parts[p * step + d];
    put(out[row * dim + d], joined / sum);
  }
}

#define ATTENTION_KERNEL(T, name, group, fours)                                                                       \
  extern "C" __global__ void paged_attention_##group##_##fours##_##name(                                              \
      const T* q, const T* keys, const T* values, const int* table, const i64* begin, const i64* length, T* out,      \
      float* parts, i64 heads, i64 kv_heads, i64 dim, float scale) {                                                  \
    paged_attention<T, group, fours>(q, keys, values, table, begin, length, out, parts, heads, kv_heads, dim, scale); \
  }
#define PAGED_KERNELS(T, name)                                                                                       \
  ATTENTION_KERNEL(T, name, 1, 1)                                                                                    \
  ATTENTION_KERNEL(T, name, 2, 1)                                                                                    \
  ATTENTION_KERNEL(T, name, 4, 1)                                                                                    \
  ATTENTION_KERNEL(T, name, 8, 1)                                                                                    \
  ATTENTION_KERNEL(T, name, 1, 2)                                                                                    \
  ATTENTION_KERNEL(T, name, 2, 2)                                                                                    \
  ATTENTION_KERNEL(T, name, 4, 2)                                                                                    \
  ATTENTION_KERNEL(T, name, 8, 2)                                                                                    \
  extern "C" __global__ void write_paged_##name(const T* k, const T* v, T* keys, T* values, const i64* slots, i64 n, \
                                                i64 kv_heads, i64 dim) {                                             \
    write_paged(k, v, keys, values, slots, n, kv_heads, dim);                                                        \
  }                                                                                                                  \
  extern "C" __global__ void join_parts_##name(const float* parts, T* out, i64 rows, i64 count, i64 dim) {           \
    join_parts(parts, out, rows, count, dim);                                                                        \
  }
PAGED_KERNELS(float, f32)
PAGED_KERNELS(bf16, bf16)
#undef PAGED_KERNELS
#undef ATTENTION_KERNEL
