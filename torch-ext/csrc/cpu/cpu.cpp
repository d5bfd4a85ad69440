#include "cpu.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace xplore {

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16", "amx"};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
bool has(CpuLevel level) {
  switch (level) {
    case CpuLevel::kPortable: return true;
    case CpuLevel::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuLevel::kAvx512:
      return has(CpuLevel::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case CpuLevel::kAvx512Bf16: return has(CpuLevel::kAvx512) && __builtin_cpu_supports("avx512bf16");
    case CpuLevel::kAmx: return has(CpuLevel::kAvx512) && __builtin_cpu_supports("amx-bf16");
  }
  return false;
}

CpuLevel fastest() {
  if (has(CpuLevel::kAmx)) return CpuLevel::kAmx;
  // Intel cores multiply bf16 pairs at half the rate of fp32 values.
  if (has(CpuLevel::kAvx512Bf16) && __builtin_cpu_is("amd")) return CpuLevel::kAvx512Bf16;
  return has(CpuLevel::kAvx512) ? CpuLevel::kAvx512 : has(CpuLevel::kAvx2) ? CpuLevel::kAvx2 : CpuLevel::kPortable;
}
#else
bool has(CpuLevel level) { return level == CpuLevel::kPortable; }
CpuLevel fastest() { return CpuLevel::kPortable; }
#endif

CpuLevel find_level() {
  const char* asked = std::getenv("XPLORE_CPU");
  if (!asked || !*asked) return fastest();
  for (int i = 0; i < 5; ++i) {
    if (std::strcmp(asked, kNames[i]) != 0) continue;
    const auto level = static_cast<CpuLevel>(i);
    if (has(level)) return level;
    throw std::runtime_error(std::string("XPLORE_CPU=") + asked +
                             ": this CPU does not have these instructions; unset it");
  }
  throw std::runtime_error(std::string("XPLORE_CPU=") + asked +
                           ": expected portable, avx2, avx512, avx512_bf16 or amx");
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = find_level();
  return level;
}

const ProductKernels& product_kernels() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (cpu_level() >= CpuLevel::kAvx512) return kProductsAvx512;
  if (cpu_level() == CpuLevel::kAvx2) return kProductsAvx2;
#endif
  return kProductsPortable;
}

const AttentionKernels& attention_kernels() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (cpu_level() >= CpuLevel::kAvx512) return kAttentionAvx512;
  if (cpu_level() == CpuLevel::kAvx2) return kAttentionAvx2;
#endif
  return kAttentionPortable;
}

Format bf16_format() { return cpu_level() == CpuLevel::kAvx512Bf16 ? Format::kPairs : Format::kWidened; }

bool library_has_fast_bf16() { return cpu_level() >= CpuLevel::kAvx512Bf16; }

bool library_multiplies_bf16() { return cpu_level() == CpuLevel::kAmx; }

}  // namespace xplore
