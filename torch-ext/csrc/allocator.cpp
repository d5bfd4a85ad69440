// A CPU tensor allocator that keeps the memory of freed large tensors and reuses it.
#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "guard.h"

namespace {

constexpr size_t kAlignment = 64, kLarge = 1 << 16, kPage = 4096;

// The address of the malloc block is stored right before the data, so that the data pointer alone identifies the block
// to free: libtorch's raw interface, through which oneDNN allocates scratch memory, passes nothing else. malloc returns
// multiples of 16, so there is room for the address.
void release(void* data) {
  if (data) std::free(static_cast<void**>(data)[-1]);
}

// libtorch's own allocator requests aligned blocks from glibc, and glibc (before 2.38 at least) cannot place an aligned
// block into the hole that an equal one left: it requires slack that the hole does not have. A step that allocates and
// frees the same large tensors repeatedly would therefore grow without bound. Here the slack is part of the block.
struct Aligned final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    if (bytes >= kLarge) bytes = (bytes + kPage - 1) / kPage * kPage;
    void* block = std::malloc(bytes + kAlignment);
    TORCH_CHECK_WITH(OutOfMemoryError, block, "out of memory: ", bytes, " bytes were asked for");
    void* data = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(block) / kAlignment + 1) * kAlignment);
    static_cast<void**>(data)[-1] = block;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

// Returning pages to the system and faulting them in again costs a tenth of a large model's step and a third of a small
// one's.
extern "C" void xt_keep_memory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 16 << 20);
  // Never destroyed, because threads may outlive static destructors.
  static auto* const allocator = new Aligned;
  c10::SetCPUAllocator(allocator, /*priority=*/1);
}

// For tests: allocates, writes and frees `bytes` through libtorch's raw interface.
extern "C" int xt_raw_memory(size_t bytes) {
  return xplore::guarded([&] {
    c10::Allocator* allocator = c10::GetCPUAllocator();
    void* data = allocator->raw_allocate(bytes);
    if (bytes > 0) std::memset(data, 1, bytes);
    allocator->raw_deallocate(data);
  });
}
