// Matrix products with few rows: one new token of each sequence that is generating. libtorch's kernels are made for
// large products; here they spend half their time on packing weights that are used once.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace xplore {

// How the numbers of a product are stored and multiplied. Sums are always fp32.
enum class Product {
  kNone,      // This CPU has no kernel.
  kFloat,     // fp32 weights.
  kWidened,   // bf16 weights, each widened to fp32 as it is used.
  kPairs,     // bf16 weights and x, by an instruction that multiplies pairs of them.
};

// Whether this CPU has the instruction for kPairs.
bool has_pairs();

// Whether libtorch multiplies large bf16 matrices faster than fp32 ones on this CPU.
bool bf16_is_fast();

// The fastest way on this CPU.
Product skinny_product(bool bf16_weights);

// Rows are taken in bundles of nearly equal size: the number of the first row of bundle `i` of those of `m` rows.
inline int64_t skinny_bundles(int64_t m) { return (m + 7) / 8; }
inline int64_t skinny_first_row(int64_t m, int64_t i) { return m * i / skinny_bundles(m); }

// Room for x of [m, k] in the order in which the kernel reads it; at the border of a cache line, or every second load
// would touch two.
class Bundled {
 public:
  Bundled(Product product, int64_t m, int64_t k)
      : room_(std::aligned_alloc(64, (m * k * (product == Product::kPairs ? 2 : 4) + 63) / 64 * 64), std::free) {
    if (!room_) throw std::bad_alloc();
  }
  void* data() { return room_.get(); }

 private:
  std::unique_ptr<void, void (*)(void*)> room_;
};

// Writes `count` neighbouring numbers of a row of x, from column i on; both are multiples of 32.
void skinny_put(Product product, void* bundled, int64_t m, int64_t k, int64_t row, int64_t i, const float* numbers,
                int64_t count);

// y[m, n] = sum_k x[m, k] * w[n, k] for n in [begin, end). w is [.., k] row by row, k a multiple of 32; y has `stride`
// numbers a row; x was filled by skinny_put.
void skinny(Product product, const void* bundled, const void* w, float* y, int64_t m, int64_t k, int64_t begin,
            int64_t end, int64_t stride);

}  // namespace xplore
