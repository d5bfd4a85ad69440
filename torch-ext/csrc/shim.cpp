// The C side of torch-ext. Tensors are passed as `at::Tensor*`, as in torch-sys.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "guard.h"

using at::Tensor;
using torch::autograd::variable_list;
using xplore::guarded;

std::string& xplore::last_error() {
  thread_local std::string text;
  return text;
}

extern "C" {

const char* xt_last_error() { return xplore::last_error().c_str(); }

// Calls f(data, i) for every i below n, on libtorch's threads.
void xt_each(int64_t n, void (*f)(void*, int64_t), void* data) {
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(data, i);
  });
}

// Loads libtorch's CUDA libraries, which the linker drops because nothing references their symbols.
int xt_load_cuda() {
  return guarded([&] {
    // cuDNN's attention builds a plan for every new shape, which takes half a second.
    at::globalContext().setSDPUseCuDNN(false);
    if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  });
}

// For tests.
int xt_attention_uses_cudnn() { return at::globalContext().userEnabledCuDNNSDP(); }

// Returns the peak memory that libtorch has reserved on a device, in bytes.
int xt_device_peak(int cuda, int64_t* bytes) {
  return guarded([&] {
    const auto device = static_cast<c10::DeviceIndex>(cuda);
    *bytes = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(device).reserved_bytes[0].peak;
  });
}

int xt_open_library(const char* path) { return dlopen(path, RTLD_NOW | RTLD_GLOBAL) ? 0 : 1; }

// Writes the path of libtorch's library; returns its length, or 0 if it is unknown.
size_t xt_libtorch_path(char* path, size_t room) {
  Dl_info info;
  const auto* symbol = reinterpret_cast<const void*>(static_cast<int (*)()>(&at::get_num_threads));
  if (!dladdr(symbol, &info) || !info.dli_fname) return 0;
  const size_t length = std::min(std::strlen(info.dli_fname), room);
  std::memcpy(path, info.dli_fname, length);
  return length;
}

int xt_grad(Tensor** outputs, int n_outputs, Tensor** grad_outputs, Tensor** inputs, int n_inputs, Tensor** result) {
  return guarded([&] {
    variable_list out, dout, in;
    for (int i = 0; i < n_outputs; ++i) {
      out.push_back(*outputs[i]);
      dout.push_back(*grad_outputs[i]);
    }
    for (int i = 0; i < n_inputs; ++i) in.push_back(*inputs[i]);
    auto grads = torch::autograd::grad(out, in, dout);
    for (int i = 0; i < n_inputs; ++i) result[i] = new Tensor(grads[i]);
  });
}

int xt_fused_adamw(Tensor* param, Tensor* grad, Tensor* exp_avg, Tensor* exp_avg_sq, double lr, double beta1,
                   double beta2, double weight_decay, double eps, double step) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> p{*param}, g{*grad}, m{*exp_avg}, v{*exp_avg_sq}, unused;
    std::vector<Tensor> steps{at::full({}, step, at::TensorOptions().dtype(at::kFloat).device(param->device()))};
    at::_fused_adamw_(p, g, m, v, unused, steps, lr, beta1, beta2, weight_decay, eps, false, false);
  });
}
}
