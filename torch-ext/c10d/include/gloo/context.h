// Declarations of Gloo's types, for libtorch's ProcessGroupGloo.hpp, which includes Gloo's headers. Gloo's code is in
// libtorch_cpu. That header only holds pointers to these types, so their contents are not declared here;
// csrc/process_group.cpp asserts this.
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
