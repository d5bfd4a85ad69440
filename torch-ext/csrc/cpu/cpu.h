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

// Whether libtorch's library multiplies bf16 matrices faster than fp32 ones: it then computes the backward pass of bf16 models.
bool library_has_fast_bf16();

// Up to so many rows a product is computed here even where the library takes larger ones.
constexpr int64_t kFewRows = 64;

// Whether products of bf16 matrices with more than kFewRows rows go to libtorch's library: then a token's bits depend on the
// batch it is in.
bool library_multiplies_bf16();

}  // namespace xplore
