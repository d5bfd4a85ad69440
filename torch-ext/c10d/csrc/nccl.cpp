// NCCL process groups, in programs built for CUDA.
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <cstdlib>

#include "process_group.h"

namespace xplore {

Group nccl_group(const StorePointer& store, int rank, int size, std::chrono::milliseconds timeout) {
  // By default, libtorch's watchdog ends the process when a collective fails. With 2 it only aborts the communicator,
  // so the host continues to the next collective, which reports the rank that is gone (crate `distributed`).
  setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2", 0);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

}  // namespace xplore
