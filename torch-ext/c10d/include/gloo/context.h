// Names of Gloo's types, for libtorch's ProcessGroupGloo.hpp, which includes Gloo's headers; Gloo's code is in libtorch_cpu.
// That header only holds pointers to these types, so nothing here says what is in them; csrc/process_group.cpp asserts it.
#pragma once
#include <chrono>

namespace gloo {
class Context {
 public:
  Context() = delete;
  void setTimeout(std::chrono::milliseconds timeout);
};
namespace transport {
class Device;
class UnboundBuffer;
}  // namespace transport
}  // namespace gloo
