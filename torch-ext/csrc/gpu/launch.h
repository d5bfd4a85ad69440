// Our kernels for GPUs (*.cu beside this file), as the rest of the C side calls them. Who compiles and starts them is settled
// from Rust: NVRTC and the driver, or, in tests, an emulation on the CPU.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace xplore {

// A kernel to start on a stream of the device: pointers to its arguments, as cuLaunchKernel takes them, and `room` bytes for
// what went wrong.
struct Start {
  const char* name;
  int device;
  unsigned grid[3], threads;
  void* stream;
  void** arguments;
  char* error;
  size_t room;
};

// Starts it in the order of its stream. Returns 0, or another number with a text in `error`.
using Launcher = int (*)(const Start&);

// Whether our kernels take this tensor: fp32 or bf16, on a GPU they are there for (or on the CPU, where this thread emulates
// them).
bool has_gpu_kernels(const at::Tensor& t);
// Whether this thread emulates them.
bool emulates_gpu();

// At most so many pieces of the rows have sums of their own, enough for every multiprocessor.
constexpr int64_t kPieces = 512;

struct Grid {
  int64_t x, y = 1, z = 1;
};

void launch_raw(const at::Tensor& like, const char* name, Grid grid, unsigned threads, void** arguments);

// Starts `name` in the variant for the dtype of `like`. Arguments must have exactly the types of the kernel's parameters
// (pointers: any).
template <class... A>
void launch(const at::Tensor& like, const std::string& name, Grid grid, unsigned threads, A... arguments) {
  void* pointers[] = {static_cast<void*>(&arguments)...};
  const char* suffix = like.scalar_type() == at::kFloat ? "_f32" : "_bf16";
  launch_raw(like, (name + suffix).c_str(), grid, threads, pointers);
}

// Blocks of 256 threads for so many warps or threads.
inline Grid warps(int64_t n) { return {(n + 7) / 8}; }
inline Grid threads(int64_t n) { return {(n + 255) / 256}; }
constexpr unsigned kThreads = 256;

}  // namespace xplore
