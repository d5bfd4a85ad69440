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

const ProductKernels kProductsAvx2{kPanel, kTileRows, pack<float>, pack_bf16, multiply_floats};
const AttentionKernels kAttentionAvx2{kTileRows, attend};

}  // namespace xplore
#endif
