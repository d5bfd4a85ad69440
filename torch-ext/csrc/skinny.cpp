#include "skinny.h"

namespace xplore {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

using Kernel = void(const void*, const void*, float*, int64_t, int64_t, int64_t, int64_t, int64_t);
Kernel skinny_float, skinny_widened, skinny_pairs;

static bool has_wide() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_pairs() { return has_wide() && __builtin_cpu_supports("avx512bf16"); }

// Intel's cores multiply pairs at half the speed at which they multiply fp32 numbers, AMD's at twice.
static bool has_fast_pairs() { return has_pairs() && __builtin_cpu_is("amd"); }

bool bf16_is_fast() { return has_fast_pairs() || __builtin_cpu_supports("amx-bf16"); }

Product skinny_product(bool bf16_weights) {
  static const bool wide = has_wide();
  static const bool pairs = has_fast_pairs();
  if (!wide) return Product::kNone;
  return !bf16_weights ? Product::kFloat : pairs ? Product::kPairs : Product::kWidened;
}

void skinny(Product product, const void* bundled, const void* w, float* y, int64_t m, int64_t k, int64_t begin,
            int64_t end, int64_t stride) {
  constexpr Kernel* kKernels[] = {nullptr, skinny_float, skinny_widened, skinny_pairs};
  kKernels[static_cast<int>(product)](bundled, w, y, m, k, begin, end, stride);
}

#else

bool has_pairs() { return false; }
bool bf16_is_fast() { return false; }
Product skinny_product(bool) { return Product::kNone; }
void skinny_put(Product, void*, int64_t, int64_t, int64_t, int64_t, const float*, int64_t) {}
void skinny(Product, const void*, const void*, float*, int64_t, int64_t, int64_t, int64_t, int64_t) {}

#endif

}  // namespace xplore
