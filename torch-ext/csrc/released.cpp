// Tensors whose memory is freed and allocated again, as sharded weights require.
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "guard.h"

using at::Tensor;
using xplore::guarded;

extern "C" {

// Frees the memory of a tensor. The tensor and all views of its storage stay valid objects, but must not be read until
// they have memory again.
int xt_release_memory(Tensor* tensor) {
  return guarded([&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(at::DataPtr(nullptr, tensor->device()));
  });
}

// Allocates new memory with undefined contents for a tensor without memory.
int xt_restore_memory(Tensor* tensor) {
  return guarded([&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    // A GPU allocator allocates on the thread's current device.
    const c10::OptionalDeviceGuard guard(tensor->device());
    if (storage->data() == nullptr) storage->set_data_ptr_noswap(storage->allocator()->allocate(storage->nbytes()));
  });
}
}
