// The C side of c10d's lib.rs: a rendezvous store, process groups, and collectives on tensors.
#include "process_group.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdlib>
#include <mutex>
#include <type_traits>

#include "../../csrc/guard.h"

using at::Tensor;
using c10d::Work;
using std::chrono::milliseconds;
using xplore::Group;
using xplore::guarded;
using xplore::StorePointer;
using WorkPointer = c10::intrusive_ptr<Work>;

namespace xplore {

// include/gloo only declares Gloo's types: nothing here may depend on their contents.
template <class T, class = void>
constexpr bool defined = false;
template <class T>
constexpr bool defined<T, std::void_t<decltype(sizeof(T))>> = true;
static_assert(!defined<gloo::transport::Device> && !defined<gloo::transport::UnboundBuffer>);
static_assert(std::is_empty_v<gloo::Context> && !std::is_default_constructible_v<gloo::Context>);
static_assert(sizeof(gloo::rendezvous::Store) == sizeof(void*), "a base without members");

Group gloo_group(const StorePointer& store, int rank, int size, milliseconds timeout) {
  using c10d::ProcessGroupGloo;
  auto options = ProcessGroupGloo::Options::create(timeout);
  const char *interface = std::getenv("GLOO_SOCKET_IFNAME"), *master = std::getenv("MASTER_ADDR");
  const std::string at = master ? master : "";
  if (interface && *interface)
    options->devices.push_back(ProcessGroupGloo::createDeviceForInterface(interface));
  else if (at == "localhost" || at == "127.0.0.1")
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  else
    options->devices.push_back(ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<ProcessGroupGloo>(store, rank, size, options);
}

#ifndef USE_C10D_NCCL
Group nccl_group(const StorePointer&, int, int, milliseconds) {
  TORCH_CHECK(false, "this program was built without NCCL; build it with --features cuda");
}
#endif

}  // namespace xplore

namespace {

// Starts a collective and hands its work object to Rust; waiting for it reports a failure. Starts are serialized: the
// flight recorder, in which every group of the process records its collectives, reads a map without a lock
// (FlightRecorder::recordWithResetEnabled, libtorch 2.11), so two threads that start collectives concurrently may spin
// or crash.
template <class F>
int begun(WorkPointer** result, F&& begin) {
  return guarded([&] {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> held(one_at_a_time);
    *result = new WorkPointer(begin());
  });
}

}  // namespace

extern "C" {

int xt_store_open(const char* host, int port, int serves, int64_t timeout_ms, StorePointer** result) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = serves;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *result = new StorePointer(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

// Returns the port of the server.
int xt_store_port(StorePointer* store) { return dynamic_cast<c10d::TCPStore&>(**store).getPort(); }

// Opens another connection to the same store, for use by another thread.
int xt_store_clone(StorePointer* store, StorePointer** result) {
  return guarded([&] { *result = new StorePointer((*store)->clone()); });
}

int xt_store_set(StorePointer* store, const char* key, const uint8_t* value, size_t length) {
  return guarded([&] { (*store)->set(key, std::vector<uint8_t>(value, value + length)); });
}

int xt_store_has(StorePointer* store, const char* key, int* has) {
  return guarded([&] { *has = (*store)->check({key}); });
}

// Calls f(data, value, length) with the value. Waits until the key is set.
int xt_store_get(StorePointer* store, const char* key, void (*f)(void*, const uint8_t*, size_t), void* data) {
  return guarded([&] {
    const std::vector<uint8_t> value = (*store)->get(key);
    f(data, value.data(), value.size());
  });
}

void xt_store_free(StorePointer* store) { delete store; }

int xt_group_open(StorePointer* store, const char* prefix, int rank, int size, int64_t timeout_ms, int nccl,
                  Group** result) {
  return guarded([&] {
    const StorePointer own = c10::make_intrusive<c10d::PrefixStore>(prefix, *store);
    const milliseconds timeout(timeout_ms);
    *result = new Group(nccl ? xplore::nccl_group(own, rank, size, timeout)
                             : xplore::gloo_group(own, rank, size, timeout));
  });
}

void xt_group_free(Group* group) { delete group; }

// Aborts all pending collectives: their kernels return, and host threads that wait for them continue. Gloo has no
// equivalent.
int xt_group_abort(Group* group) {
  return guarded([&] { (*group)->abort(); });
}

// Fails if a collective of the group has failed since it was opened. For NCCL groups, where no wait reports a failure.
int xt_group_check(Group* group) {
  return guarded([&] {
    switch ((*group)->getError()) {
      case c10d::ErrorType::SUCCESS: return;
      case c10d::ErrorType::TIMEOUT: TORCH_CHECK(false, "timed out");
      case c10d::ErrorType::COMM_ERROR: TORCH_CHECK(false, "the communicator reports an error");
      case c10d::ErrorType::REMOTE_ERROR: TORCH_CHECK(false, "another rank reports an error");
    }
  });
}

int xt_all_reduce(Group* group, Tensor* tensor, int largest, WorkPointer** result) {
  return begun(result, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = largest ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
    return (*group)->allreduce(tensors, options);
  });
}

int xt_reduce_scatter(Group* group, Tensor* output, Tensor* input, WorkPointer** result) {
  return begun(result, [&] { return (*group)->_reduce_scatter_base(*output, *input); });
}

int xt_all_gather(Group* group, Tensor* output, Tensor* input, WorkPointer** result) {
  return begun(result, [&] { return (*group)->_allgather_base(*output, *input); });
}

int xt_broadcast(Group* group, Tensor* tensor, int from, WorkPointer** result) {
  return begun(result, [&] {
    std::vector<Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    return (*group)->broadcast(tensors, options);
  });
}

int xt_work_wait(WorkPointer* work) {
  return guarded([&] { TORCH_CHECK((*work)->wait(), "given up"); });
}

// Waits at most `ms` milliseconds. Not for NCCL, where a wait with a timeout blocks the host.
int xt_work_wait_for(WorkPointer* work, int64_t ms, int* done) {
  return guarded([&] {
    try {
      (*work)->wait(milliseconds(ms));
    } catch (...) {
      if (!(*done = (*work)->isCompleted())) return;
    }
    // The work has completed, during the wait or just after the timeout. This call returns at once, or throws the
    // reason of the failure.
    *done = 1;
    TORCH_CHECK((*work)->wait(), "given up");
  });
}

void xt_work_free(WorkPointer* work) { delete work; }
}
