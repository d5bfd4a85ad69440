// A kernel launch, as it crosses from C++ to Rust (src/ffi.rs) and to the emulation. Needs no header of libtorch.
#pragma once
#include <cstddef>

namespace xplore {

// A kernel launch on a stream of the device: pointers to the arguments, as cuLaunchKernel takes them, and `room` bytes
// for an error message.
struct KernelLaunch {
  const char* name;
  int device;
  unsigned grid[3], threads;
  void* stream;
  void** arguments;
  char* error;
  size_t room;
};

// ffi.rs asserts the same numbers.
static_assert(sizeof(KernelLaunch) == 64 && offsetof(KernelLaunch, grid) == 12 && offsetof(KernelLaunch, stream) == 32 &&
                  offsetof(KernelLaunch, room) == 56,
              "KernelLaunch differs from that of ffi.rs");

}  // namespace xplore
