// Work items of uneven size on libtorch's threads.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace xplore {

// Calls f(i) for each i below n, on at most `workers` of libtorch's threads. Each thread takes the next remaining item,
// because items differ in size.
template <class F>
void each_item(int64_t n, int64_t workers, const F& f) {
  const int64_t threads = std::clamp<int64_t>(std::min<int64_t>(n, workers), 1, at::get_num_threads());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) f(i);
  });
}

}  // namespace xplore
