// Memory for tensors on the CPU: what large tensors leave is kept and taken again.
#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kAlignment = 64, kLarge = 1 << 16, kPage = 4096;

// libtorch's own allocator asks glibc for aligned blocks, and glibc (before 2.38 at least) cannot put an aligned block into
// the hole that an equal one left: it asks for slack that the hole does not have. So a step that makes and drops the same
// large tensors over and over would grow without end. Here the slack is part of the block.
struct Aligned final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &std::free, cpu};
    if (bytes >= kLarge) bytes = (bytes + kPage - 1) / kPage * kPage;
    void* block = std::malloc(bytes + kAlignment);
    TORCH_CHECK(block, "out of memory: ", bytes, " bytes were asked for; use smaller batches or passes, or a smaller model");
    const auto begin = (reinterpret_cast<uintptr_t>(block) + kAlignment - 1) / kAlignment * kAlignment;
    return {reinterpret_cast<void*>(begin), block, &std::free, cpu};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

// Giving pages back to the system and faulting them in again costs a tenth of a large model's step and a third of a small
// one's.
extern "C" void xt_keep_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);
  static Aligned allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}
