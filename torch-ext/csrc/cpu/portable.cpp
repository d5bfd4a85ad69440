// For CPUs and compilers without vectors of their own here. Exact like the others, and slow where a fused multiply-add is a call.
#include <cmath>
#include <cstdlib>
#include <utility>

#define XPLORE_ISA 0
#include "attention_impl.h"
#include "products_impl.h"

namespace xplore {

const ProductKernels kProductsPortable{kPanel, kTileRows, pack<float>, pack_bf16, multiply_floats};
const AttentionKernels kAttentionPortable{kTileRows, attend};

}  // namespace xplore
