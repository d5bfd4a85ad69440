// For CPUs and compilers without vectors of their own here. Exact like the others, and slow where a fused multiply-add is a call.
#include <cmath>
#include <cstdlib>
#include <utility>

#define XPLORE_ISA 0
#include "attention_impl.h"
#include "products_impl.h"

namespace xplore {

static void multiply(Format format, Left a, const void* panels, float* y, int64_t y_row, int64_t m, int64_t k, int64_t count,
                     bool add) {
  (format == Format::kFloat ? multiply_as<FloatPanel> : multiply_as<WidenedPanel>)(a, panels, y, y_row, m, k, count, add);
}

const ProductKernels kProductsPortable{kPanel, kTileRows, pack<float>, pack_bf16, multiply};
const AttentionKernels kAttentionPortable{kTileRows, attend};

}  // namespace xplore
