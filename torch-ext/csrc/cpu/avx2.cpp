#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <cmath>
#include <cstdlib>
#include <utility>

#include <immintrin.h>
#pragma GCC target("avx2,fma")
#define XPLORE_ISA 2
#include "attention_impl.h"
#include "products_impl.h"

namespace xplore {

static void multiply(Format format, Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k, int64_t count,
                     bool add) {
  (format == Format::kFloat ? multiply_as<FloatPanel> : multiply_as<WidenedPanel>)(a, panels, y, y_row, m, k, count, add);
}

const ProductKernels kProductsAvx2{kPanel, kTileRows, pack<float>, pack_bf16, multiply};
const AttentionKernels kAttentionAvx2{kTileRows, attend};

}  // namespace xplore
#endif
