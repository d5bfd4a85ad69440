// For CPUs and compilers without vector code here. Bit-identical to the other levels, but slow where a fused
// multiply-add is a function call.
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
