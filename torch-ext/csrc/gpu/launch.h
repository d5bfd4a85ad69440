// The custom CUDA kernels (*.cu in this folder), as the rest of the C side calls them. Rust supplies the launcher:
// NVRTC and the driver, or an emulation on the CPU in tests.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

#include "kernel_launch.h"

namespace xplore {

// Launches a kernel in the order of its stream. Returns 0, or another number and a message in `error`.
using Launcher = int (*)(const KernelLaunch&);

// Whether the custom kernels support this tensor: fp32 or bf16, on a GPU they are loaded for (or on the CPU, if this
// thread emulates them).
bool has_gpu_kernels(const at::Tensor& t);
// Whether this thread emulates them.
bool emulates_gpu();

// Maximum number of parts of the rows with their own partial sum, enough for every multiprocessor.
constexpr int64_t kPieces = 512;

struct Grid {
  int64_t x, y = 1, z = 1;
};

void launch_raw(const at::Tensor& like, const char* name, Grid grid, unsigned threads, void** arguments);

// Launches the variant of `name` for the dtype of `like`. Arguments must have exactly the types of the kernel's
// parameters (any pointer type is allowed).
template <class... A>
void launch(const at::Tensor& like, const std::string& name, Grid grid, unsigned threads, A... arguments) {
  void* pointers[] = {static_cast<void*>(&arguments)...};
  const char* suffix = like.scalar_type() == at::kFloat ? "_f32" : "_bf16";
  launch_raw(like, (name + suffix).c_str(), grid, threads, pointers);
}

// Grids of 256-thread blocks for n warps or n threads.
inline Grid warps(int64_t n) { return {(n + 7) / 8}; }
inline Grid threads(int64_t n) { return {(n + 255) / 256}; }
constexpr unsigned kThreads = 256;

}  // namespace xplore
