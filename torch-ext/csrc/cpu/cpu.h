// Selection of the kernels for this CPU.
#pragma once
#include "attention.h"
#include "products.h"

namespace xplore {

// In ascending order; each level includes those before it. XPLORE_CPU names the maximum level to use.
enum class CpuLevel {
  kPortable,
  kAvx2,        // AVX2 and FMA.
  kAvx512,      // AVX-512 F, BW, VL, DQ.
  kAvx512Bf16,  // Pairs of bf16 values in one instruction (on AMD, twice as fast as fp32).
  kAmx,         // Tiles of bf16 values, computed by libtorch: its sums depend on the shape of a product.
};

// Throws if XPLORE_CPU names an unknown level, or one that this CPU does not support.
CpuLevel cpu_level();

const ProductKernels& product_kernels();
const AttentionKernels& attention_kernels();

// The format of products with bf16 weights.
Format bf16_format();

// Whether libtorch multiplies bf16 matrices faster than fp32 ones: it then computes the backward pass of bf16 models.
bool library_has_fast_bf16();

// Maximum number of rows of a product that is computed here even where libtorch computes larger ones.
constexpr int64_t kFewRows = 64;

// Whether products of bf16 matrices with more than kFewRows rows go to libtorch: a token's bits then depend on the
// batch it is in.
bool library_multiplies_bf16();

}  // namespace xplore
