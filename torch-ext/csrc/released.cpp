// Tensors whose memory comes and goes, as sharded weights need.
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "guard.h"

using at::Tensor;
using xplore::guarded;

extern "C" {

// Lets the memory of a tensor go; the tensor and all that share its memory stay, and must not be read until they have memory
// again.
int xt_release_memory(Tensor* tensor) {
  return guarded([&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(at::DataPtr(nullptr, tensor->device()));
  });
}

// Gives a tensor without memory new memory of undefined contents.
int xt_restore_memory(Tensor* tensor) {
  return guarded([&] {
    c10::StorageImpl* storage = tensor->storage().unsafeGetStorageImpl();
    // An allocator of GPU memory takes it from the thread's current device.
    const c10::OptionalDeviceGuard guard(tensor->device());
    if (storage->data() == nullptr) storage->set_data_ptr_noswap(storage->allocator()->allocate(storage->nbytes()));
  });
}
}
