// Emulates the CUDA kernels on a CPU, for tests: every thread of a block is a fiber that runs until it waits for
// others.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "kernel_launch.h"

namespace {

struct Index {
  unsigned x, y, z;
};

// A barrier for the threads of a block or a warp.
struct Meeting {
  unsigned size = 0, arrived = 0, times = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
};

struct Block {
  Index index{}, grid{};
  unsigned threads = 0, current = 0;
  std::vector<Fiber> fibers;
  Meeting all;
  std::vector<Meeting> warps;
  std::vector<float> passed;  // the value that each thread passes to its warp
  ucontext_t scheduler;
  const std::function<void()>* body = nullptr;
};
thread_local Block block;

void give_way() { swapcontext(&block.fibers[block.current].context, &block.scheduler); }

void meet(Meeting& meeting) {
  const unsigned times = meeting.times;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.times;
    return;
  }
  while (meeting.times == times) give_way();
}

void enter() {
  (*block.body)();
  block.fibers[block.current].done = true;
  give_way();
}

void run_block(const std::function<void()>& body) {
  block.body = &body;
  block.all = {block.threads};
  block.warps.assign((block.threads + 31) / 32, Meeting{32});
  block.passed.assign(block.threads, 0);
  block.fibers.resize(block.threads);
  for (Fiber& fiber : block.fibers) {
    fiber.done = false;
    fiber.stack.resize(64 << 10);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool left = true; left;) {
    left = false;
    for (unsigned t = 0; t < block.threads; ++t) {
      if (block.fibers[t].done) continue;
      left = true;
      block.current = t;
      swapcontext(&block.scheduler, &block.fibers[t].context);
    }
  }
}

float from_lane(float x, unsigned lane) {
  Meeting& warp = block.warps[block.current / 32];
  block.passed[block.current] = x;
  meet(warp);
  const float found = block.passed[block.current / 32 * 32 + lane];
  meet(warp);
  return found;
}

// CUDA built-ins that the kernels use.
#define __device__
#define __global__
#define __shared__ static thread_local
#define threadIdx (Index{block.current, 0, 0})
#define blockIdx (block.index)
#define blockDim (Index{block.threads, 1, 1})
#define gridDim (block.grid)
void __syncthreads() { meet(block.all); }
float __shfl_sync(unsigned, float x, unsigned lane) { return from_lane(x, lane); }
float __shfl_xor_sync(unsigned, float x, unsigned mask) { return from_lane(x, block.current % 32 ^ mask); }
float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

}  // namespace

namespace xplore_emulated {

#include "numbers.cuh"
#include "layer.cu"
#include "paged.cu"
#include "loss.cu"

}  // namespace xplore_emulated

namespace {

using Call = std::function<void(void**)>;

template <class... A, size_t... I>
Call call_of(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void** arguments) { kernel(*static_cast<A*>(arguments[I])...); };
}
template <class... A>
Call call_of(void (*kernel)(A...)) {
  return call_of(kernel, std::index_sequence_for<A...>());
}

const std::map<std::string, Call>& kernels() {
  using namespace xplore_emulated;
#define NAMED(kernel) {#kernel, call_of(kernel)}
#define OF_TYPE(T)                                                                                                     \
  NAMED(rms_norm_##T), NAMED(rms_norm_input_##T), NAMED(rms_norm_weight_##T), NAMED(swiglu_##T),                       \
      NAMED(swiglu_input_##T), NAMED(qk_norm_rope_##T), NAMED(qk_norm_rope_input_##T), NAMED(qk_norm_rope_weight_##T), \
      NAMED(write_paged_##T), NAMED(join_parts_##T), NAMED(paged_attention_1_1_##T), NAMED(paged_attention_2_1_##T),   \
      NAMED(paged_attention_4_1_##T), NAMED(paged_attention_8_1_##T), NAMED(paged_attention_1_2_##T),                  \
      NAMED(paged_attention_2_2_##T), NAMED(paged_attention_4_2_##T), NAMED(paged_attention_8_2_##T)
  static const std::map<std::string, Call> all{OF_TYPE(f32), OF_TYPE(bf16), NAMED(cross_entropy_f32),
                                               NAMED(cross_entropy_input_f32)};
  return all;
}

}  // namespace

// Returns the bf16 value that the kernels compute from the fp32 value with these bits.
extern "C" uint16_t xt_emulated_narrow(uint32_t bits) { return xplore_emulated::narrow(__uint_as_float(bits)); }

extern "C" int xt_emulated_launch(const xplore::KernelLaunch& start) {
  const auto found = kernels().find(start.name);
  if (found == kernels().end()) {
    std::snprintf(start.error, start.room, "there is no such kernel");
    return 1;
  }
  const unsigned(&grid)[3] = start.grid;
  const std::function<void()> body = [&] { found->second(start.arguments); };
  block.threads = start.threads;
  block.grid = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < grid[2]; ++z)
    for (unsigned y = 0; y < grid[1]; ++y)
      for (unsigned x = 0; x < grid[0]; ++x) {
        block.index = {x, y, z};
        run_block(body);
      }
  return 0;
}
