#include "launch.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>

namespace xplore {

namespace {

std::atomic<Launcher> for_cuda{nullptr};
thread_local Launcher for_cpu = nullptr;

Launcher launcher_for(const at::Tensor& t) {
  return t.device().is_cuda() ? for_cuda.load() : t.device().is_cpu() ? for_cpu : nullptr;
}

// The stream that libtorch uses on this thread.
void* current_stream(const at::Tensor& like) {
  if (!like.is_cuda()) return nullptr;
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStream(like.device()).native_handle();
}

}  // namespace

bool has_gpu_kernels(const at::Tensor& t) {
  const bool known = t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16;
  return known && launcher_for(t);
}

bool emulates_gpu() { return for_cpu != nullptr; }

void launch_raw(const at::Tensor& like, const char* name, Grid grid, unsigned threads, void** arguments) {
  if (grid.x == 0) return;
  constexpr int64_t kMost = 0x7fffffff, kMostYZ = 65535;
  TORCH_CHECK(grid.x <= kMost && grid.y <= kMostYZ && grid.z <= kMostYZ, name, ": too large a grid");
  char error[1024] = "";
  const auto size = [](int64_t n) { return static_cast<unsigned>(n); };
  const int failed = launcher_for(like)({name,
                                         std::max<int>(0, like.device().index()),
                                         {size(grid.x), size(grid.y), size(grid.z)},
                                         threads,
                                         current_stream(like),
                                         arguments,
                                         error,
                                         sizeof error});
  TORCH_CHECK(!failed, "kernel ", name, ": ", error);
}

}  // namespace xplore

extern "C" {

// Enables the custom kernels on CUDA devices.
void xt_use_gpu_kernels(xplore::Launcher launcher) { xplore::for_cuda = launcher; }

// For tests: enables the kernels for this thread's CPU tensors, or disables them if null.
void xt_emulate_gpu_kernels(xplore::Launcher launcher) { xplore::for_cpu = launcher; }
}
