// Pointers to a tensor's elements, in the types that the loops of kernels.h take.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace xplore {

inline const uint16_t* bits(const at::Tensor& t) { return static_cast<const uint16_t*>(t.const_data_ptr()); }
inline uint16_t* bits(at::Tensor& t) { return static_cast<uint16_t*>(t.mutable_data_ptr()); }
inline const float* floats(const at::Tensor& t) { return t.const_data_ptr<float>(); }
inline float* floats(at::Tensor& t) { return t.mutable_data_ptr<float>(); }

}  // namespace xplore
