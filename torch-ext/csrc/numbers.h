// fp32 and bf16 numbers in plain loops. bf16 numbers are held as their bits.
#pragma once
#include <cstdint>
#include <cstring>

#include "each_cpu.h"

namespace xplore {

INSIDE float widen(float x) { return x; }
INSIDE float widen(uint16_t bf16) {
  const uint32_t bits = static_cast<uint32_t>(bf16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// To the nearest bf16 number, ties to even.
INSIDE uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// What is left of a number that is stored as T.
template <class T>
INSIDE float rounded(float x) {
  return sizeof(T) == 2 ? widen(narrow(x)) : x;
}

// Stores a number rounded to T, in whatever type the place has.
template <class T>
INSIDE void put(uint16_t& to, float x) {
  to = narrow(x);
}
template <class T>
INSIDE void put(float& to, float x) {
  to = rounded<T>(x);
}

}  // namespace xplore
