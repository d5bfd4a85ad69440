// The operations of a layer between its products, and their backward passes: the GPU counterpart of csrc/kernels.h.

// The global index of this warp.
__device__ inline i64 warp_number() {
  return static_cast<i64>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
}
__device__ inline i64 thread_number() { return static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; }

// One warp per row; dim is a multiple of 4.
template <class T>
__device__ void rms_norm(const T* x, const T* w, T* y, float* inv, i64 rows, i64 dim, float eps) {
  const i64 row = warp_number(), lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  x += row * dim, y += row * dim;
  float sum = 0;
  for (i64 i = lane * 4; i < dim; i += kWarp * 4) {
    const Four<T> a = four(x + i);
    for (int j = 0; j < 4; ++j) sum += widen(a.at[j]) * widen(a.at[j]);
  }
  const float scale = 1.0f / sqrtf(warp_sum(sum) / dim + eps);
  for (i64 i = lane * 4; i < dim; i += kWarp * 4) {
    const Four<T> a = four(x + i), b = four(w + i);
    Four<T> out;
    for (int j = 0; j < 4; ++j) put(out.at[j], rounded<T>(widen(a.at[j]) * scale) * widen(b.at[j]));
    *reinterpret_cast<Four<T>*>(y + i) = out;
  }
  if (lane == 0) inv[row] = scale;
}

// Computes dx; one warp per row.
template <class T>
__device__ void rms_norm_input(const T* dy, const T* x, const T* w, const float* inv, T* dx, i64 rows, i64 dim) {
  const i64 row = warp_number(), lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  dy += row * dim, x += row * dim, dx += row * dim;
  float dot = 0;
  for (i64 i = lane * 4; i < dim; i += kWarp * 4) {
    const Four<T> d = four(dy + i), a = four(x + i), b = four(w + i);
    for (int j = 0; j < 4; ++j) dot += widen(d.at[j]) * widen(b.at[j]) * widen(a.at[j]);
  }
  const float scale = inv[row], shrink = warp_sum(dot) * scale * scale * scale / dim;
  for (i64 i = lane * 4; i < dim; i += kWarp * 4) {
    const Four<T> d = four(dy + i), a = four(x + i), b = four(w + i);
    Four<T> out;
    for (int j = 0; j < 4; ++j) put(out.at[j], widen(d.at[j]) * widen(b.at[j]) * scale - widen(a.at[j]) * shrink);
    *reinterpret_cast<Four<T>*>(dx + i) = out;
  }
}

// Partial sums of the weight's gradient, one per part of the rows: sums [pieces, dim]. One thread per column;
// blockIdx.y: the part.
template <class T>
__device__ void rms_norm_weight(const T* dy, const T* x, const float* inv, float* sums, i64 rows, i64 dim) {
  const i64 column = thread_number(), piece = blockIdx.y, pieces = gridDim.y;
  if (column >= dim) return;
  float sum = 0;
  for (i64 r = rows * piece / pieces; r < rows * (piece + 1) / pieces; ++r)
    sum += widen(dy[r * dim + column]) * widen(x[r * dim + column]) * inv[r];
  sums[piece * dim + column] = sum;
}

// gate_up [rows, 2 width] -> out [rows, width]; width is a multiple of 4, one thread per four columns.
template <class T>
__device__ void swiglu(const T* gate_up, T* out, i64 rows, i64 width) {
  const i64 at = thread_number() * 4, row = at / width, column = at % width;
  if (row >= rows) return;
  const T* from = gate_up + row * 2 * width + column;
  const Four<T> gate = four(from), up = four(from + width);
  Four<T> made;
  for (int j = 0; j < 4; ++j) {
    const float g = widen(gate.at[j]);
    put(made.at[j], rounded<T>(g * sigmoid(g)) * widen(up.at[j]));
  }
  *reinterpret_cast<Four<T>*>(out + at) = made;
}

template <class T>
__device__ void swiglu_input(const T* dout, const T* gate_up, T* d, i64 rows, i64 width) {
  const i64 at = thread_number() * 4, row = at / width, column = at % width;
  if (row >= rows) return;
  const i64 place = row * 2 * width + column;
  const Four<T> gate = four(gate_up + place), up = four(gate_up + place + width), given = four(dout + at);
  Four<T> dgate, dup;
  for (int j = 0; j < 4; ++j) {
    const float g = widen(gate.at[j]), s = sigmoid(g), silu = g * s, di = widen(given.at[j]);
    put(dup.at[j], di * silu);
    put(dgate.at[j], di * widen(up.at[j]) * (s + silu * (1.0f - s)));
  }
  *reinterpret_cast<Four<T>*>(d + place) = dgate;
  *reinterpret_cast<Four<T>*>(d + place + width) = dup;
}

// One element of a rotated pair, own * c + other * s. The caller picks the sign of s, which selects the direction of
// rotation.
template <class T>
__device__ inline float turned(float own, float other, float c, float s) {
  return rounded<T>(rounded<T>(own * c) + rounded<T>(other * s));
}

// qkv [rows, heads + 2 kv, dim] -> q, k (normalized unless their weights are null, then rotated), v. One warp per head.
template <class T>
__device__ void qk_norm_rope(const T* qkv, const T* q_norm, const T* k_norm, const float* cos, const float* sin, T* q,
                             T* k, T* v, float* inv, i64 rows, i64 query_heads, i64 kv_heads, i64 dim, float eps) {
  const i64 all = query_heads + 2 * kv_heads, row = warp_number() / all, head = warp_number() % all;
  const i64 lane = threadIdx.x % kWarp, half = dim / 2, key = head - query_heads, value = key - kv_heads;
  if (row >= rows) return;
  const T* x = qkv + (row * all + head) * dim;
  if (value >= 0) {
    for (i64 i = lane; i < dim; i += kWarp) v[(row * kv_heads + value) * dim + i] = x[i];
    return;
  }
  T* y = key < 0 ? q + (row * query_heads + head) * dim : k + (row * kv_heads + key) * dim;
  const T* w = key < 0 ? q_norm : k_norm;
  float scale = 1;
  if (w) {
    float sum = 0;
    for (i64 i = lane; i < dim; i += kWarp) sum += widen(x[i]) * widen(x[i]);
    scale = 1.0f / sqrtf(warp_sum(sum) / dim + eps);
    if (lane == 0) inv[row * (query_heads + kv_heads) + head] = scale;
  }
  const auto normed = [&](i64 i) {
    return w ? rounded<T>(rounded<T>(widen(x[i]) * scale) * widen(w[i])) : widen(x[i]);
  };
  for (i64 i = lane; i < half; i += kWarp) {
    const float c = rounded<T>(cos[row * half + i]), s = rounded<T>(sin[row * half + i]);
    const float a = normed(i), b = normed(i + half);
    put(y[i], turned<T>(a, b, c, -s));
    put(y[i + half], turned<T>(b, a, c, s));
  }
}

// dqkv of the above; qkv is read only with norms. One warp per head.
template <class T>
__device__ void qk_norm_rope_input(const T* dq, const T* dk, const T* dv, const T* qkv, const T* q_norm,
                                   const T* k_norm, const float* cos, const float* sin, const float* inv, T* dqkv,
                                   i64 rows, i64 query_heads, i64 kv_heads, i64 dim) {
  const i64 all = query_heads + 2 * kv_heads, row = warp_number() / all, head = warp_number() % all;
  const i64 lane = threadIdx.x % kWarp, half = dim / 2, key = head - query_heads, value = key - kv_heads;
  if (row >= rows) return;
  T* out = dqkv + (row * all + head) * dim;
  if (value >= 0) {
    for (i64 i = lane; i < dim; i += kWarp) out[i] = dv[(row * kv_heads + value) * dim + i];
    return;
  }
  const T* dy = key < 0 ? dq + (row * query_heads + head) * dim : dk + (row * kv_heads + key) * dim;
  const T *x = qkv + (row * all + head) * dim, *w = key < 0 ? q_norm : k_norm;
  const float *c = cos + row * half, *s = sin + row * half;
  const auto back = [&](i64 i) {
    const bool low = i < half;
    const i64 pair = low ? i : i - half;
    const float turn = rounded<T>(s[pair]);
    return turned<T>(widen(dy[i]), widen(dy[low ? i + half : pair]), rounded<T>(c[pair]), low ? turn : -turn);
  };
  float scale = 1, shrink = 0;
  if (w) {
    float dot = 0;
    for (i64 i = lane; i < dim; i += kWarp) dot += back(i) * widen(w[i]) * widen(x[i]);
    scale = inv[row * (query_heads + kv_heads) + head];
    shrink = warp_sum(dot) * scale * scale * scale / dim;
  }
  for (i64 i = lane; i < dim; i += kWarp)
    put(out[i], w ? back(i) * widen(w[i]) * scale - widen(x[i]) * shrink : back(i));
}

// Partial sums of the norms' gradients, sums [pieces, 2, dim]: one thread per column; blockIdx.y: the part; blockIdx.z:
// queries or keys.
template <class T>
__device__ void qk_norm_rope_weight(const T* dq, const T* dk, const T* qkv, const float* cos, const float* sin,
                                    const float* inv, float* sums, i64 rows, i64 query_heads, i64 kv_heads, i64 dim) {
  const i64 i = thread_number(), half = dim / 2, all = query_heads + 2 * kv_heads;
  const i64 piece = blockIdx.y, pieces = gridDim.y, of_keys = blockIdx.z;
  if (i >= dim) return;
  const i64 count = of_keys ? kv_heads : query_heads, skipped = of_keys ? query_heads : 0;
  const bool low = i < half;
  const i64 pair = low ? i : i - half;
  float sum = 0;
  for (i64 r = rows * piece / pieces; r < rows * (piece + 1) / pieces; ++r) {
    const float c = rounded<T>(cos[r * half + pair]), s = rounded<T>(sin[r * half + pair]);
    for (i64 h = 0; h < count; ++h) {
      const T* dy = (of_keys ? dk : dq) + (r * count + h) * dim;
      const float d = turned<T>(widen(dy[i]), widen(dy[low ? i + half : pair]), c, low ? s : -s);
      sum += d * widen(qkv[(r * all + skipped + h) * dim + i]) * inv[r * (query_heads + kv_heads) + skipped + h];
    }
  }
  sums[(piece * 2 + of_keys) * dim + i] = sum;
}

#define LAYER_KERNELS(T, name)                                                                                         \
  extern "C" __global__ void rms_norm_##name(const T* x, const T* w, T* y, float* inv, i64 rows, i64 dim, float eps) { \
    rms_norm(x, w, y, inv, rows, dim, eps);                                                                            \
  }                                                                                                                    \
  extern "C" __global__ void rms_norm_input_##name(const T* dy, const T* x, const T* w, const float* inv, T* dx,       \
                                                   i64 rows, i64 dim) {                                                \
    rms_norm_input(dy, x, w, inv, dx, rows, dim);                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void rms_norm_weight_##name(const T* dy, const T* x, const float* inv, float* sums, i64 rows,  \
                                                    i64 dim) {                                                         \
    rms_norm_weight(dy, x, inv, sums, rows, dim);                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void swiglu_##name(const T* gate_up, T* out, i64 rows, i64 width) {                            \
    swiglu(gate_up, out, rows, width);                                                                                 \
  }                                                                                                                    \
  extern "C" __global__ void swiglu_input_##name(const T* dout, const T* gate_up, T* d, i64 rows, i64 width) {         \
    swiglu_input(dout, gate_up, d, rows, width);                                                                       \
  }                                                                                                                    \
  extern "C" __global__ void qk_norm_rope_##name(const T* qkv, const T* q_norm, const T* k_norm, const float* cos,     \
                                                 const float* sin, T* q, T* k, T* v, float* inv, i64 rows,             \
                                                 i64 query_heads, i64 kv_heads, i64 dim, float eps) {                  \
    qk_norm_rope(qkv, q_norm, k_norm, cos, sin, q, k, v, inv, rows, query_heads, kv_heads, dim, eps);                  \
  }                                                                                                                    \
  extern "C" __global__ void qk_norm_rope_input_##name(                                                                \
      const T* dq, const T* dk, const T* dv, const T* qkv, const T* q_norm, const T* k_norm, const float* cos,         \
      const float* sin, const float* inv, T* dqkv, i64 rows, i64 query_heads, i64 kv_heads, i64 dim) {                 \
    qk_norm_rope_input(dq, dk, dv, qkv, q_norm, k_norm, cos, sin, inv, dqkv, rows, query_heads, kv_heads, dim);        \
  }                                                                                                                    \
  extern "C" __global__ void qk_norm_rope_weight_##name(const T* dq, const T* dk, const T* qkv, const float* cos,      \
                                                        const float* sin, const float* inv, float* sums, i64 rows,     \
                                                        i64 query_heads, i64 kv_heads, i64 dim) {                      \
    qk_norm_rope_weight(dq, dk, qkv, cos, sin, inv, sums, rows, query_heads, kv_heads, dim);                           \
  }
LAYER_KERNELS(float, f32)
LAYER_KERNELS(bf16, bf16)
#undef LAYER_KERNELS
