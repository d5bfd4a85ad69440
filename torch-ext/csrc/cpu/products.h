// Matrix products in which every element is one chain of fused multiply-adds over k, in order: y[i, j] = fma(a[i, k],
// b[k, j], y[i, j]) for k = 0, 1, … in fp32. Nothing else affects a result: not the number of rows or columns, the
// split into tiles or threads, or the register width. A token gets the same bits alone and in any batch, on every CPU
// with these instructions.
#pragma once
#include <cstdint>

namespace xplore {

// The storage format of b in panels, which also selects how it is multiplied.
enum class Format {
  kFloat,    // fp32.
  kWidened,  // bf16, widened to fp32 on load: same bits as kFloat on the same values.
  kPairs,    // bf16, two k at once by vdpbf16ps, which rounds differently; a is bf16 too.
};

// Element [i, j] is at data[i * row + j * col].
template <class T>
struct Strided {
  const T* data;
  int64_t row, col;
};

// The left operand, [m, k]: fp32, or bf16 for kPairs (with col = 1).
struct Left {
  const void* data;
  int64_t row, col;
};

// The kernels for one instruction set. A panel holds `panel` neighboring columns of b for all k; columns beyond the
// last are zero. It takes panel · k elements (kPairs: k rounded up to even).
struct ProductKernels {
  int64_t panel, tile_rows;
  // Copies columns [first, first + count) of b, [k, n], into panels. `first` is a multiple of `panel`.
  void (*pack_float)(Strided<float> b, int64_t k, int64_t first, int64_t count, float* panels);
  void (*pack_bf16)(Format format, Strided<uint16_t> b, int64_t k, int64_t first, int64_t count, uint16_t* panels);
  // y[:, :count] = a · b, or += a · b; panels are those of the `count` columns. y has `y_row` elements between rows.
  void (*multiply)(Format format, Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k,
                   int64_t count, bool add);
};

extern const ProductKernels kProductsPortable;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const ProductKernels kProductsAvx2, kProductsAvx512;
void multiply_pairs(Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k, int64_t count, bool add);
#endif

}  // namespace xplore
