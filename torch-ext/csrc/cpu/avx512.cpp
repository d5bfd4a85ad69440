#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <cmath>
#include <cstdlib>
#include <utility>

#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define XPLORE_ISA 512
#include "attention_impl.h"
#include "products_impl.h"

namespace xplore {

static void multiply(Format format, Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k,
                     int64_t count, bool add) {
  if (format == Format::kPairs)
    multiply_pairs(a, panels, y, y_row, m, k, count, add);
  else
    multiply_floats(format, a, panels, y, y_row, m, k, count, add);
}

const ProductKernels kProductsAvx512{kPanel, kTileRows, pack<float>, pack_bf16, multiply};
const AttentionKernels kAttentionAvx512{kTileRows, attend};

}  // namespace xplore
#endif
