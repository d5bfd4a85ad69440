// c10d process groups behind one pointer; the backend is chosen when a group is created.
#pragma once
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>

namespace xplore {

using Group = c10::intrusive_ptr<c10d::Backend>;
using StorePointer = c10::intrusive_ptr<c10d::Store>;

Group gloo_group(const StorePointer& store, int rank, int size, std::chrono::milliseconds timeout);
// Throws if this program was built without NCCL.
Group nccl_group(const StorePointer& store, int rank, int size, std::chrono::milliseconds timeout);

}  // namespace xplore
