// Which kernels this CPU takes.
#pragma once
#include "attention.h"
#include "products.h"

namespace xplore {

// In order; each includes those before it. XPLORE_CPU names the highest that may be used.
enum class CpuLevel {
  kPortable,
  kAvx2,       // AVX2 and FMA.
  kAvx512,     // AVX-512 F, BW, VL, DQ.
  kAvx512Bf16, // Pairs of bf16 values in one instruction (AMD's are twice as fast as fp32's).
  kAmx,        // Tiles of bf16 values, by libtorch's library: its sums depend on the shape of a product.
};

// Throws if XPLORE_CPU names nothing known, or what this CPU does not have.
CpuLevel cpu_level();

const ProductKernels& product_kernels();
const AttentionKernels& attention_kernels();

// How products with bf16 weights are computed.
Format bf16_format();

// Whether products of bf16 matrices with more than a few rows go to libtorch's library: then a token's bits depend on the
// batch it is in.
bool library_multiplies_bf16();

}  // namespace xplore
