#include "products.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "cpu/cpu.h"
#include "each_item.h"

using at::Tensor;

namespace xplore {

namespace {

// Minimum number of multiply-adds per thread.
constexpr int64_t kGrain = 65536;
// Number of elements of b packed at once, and number of rows that share them: a product reads its second operand from
// memory once, and its first operand once for each packed part of the second.
constexpr int64_t kPacked = 4 << 20, kBlockRows = 192;

// An input's gradient sums over all outputs, which is a whole vocabulary for the last product. One chain of 500,000
// terms has an error of 1e-5; chains of this length and their sum have 1e-6.
constexpr int64_t kLongestChain = 4096;

// Returns the number of elements of a panel of depth k.
int64_t panel_size(Format format, int64_t k) {
  return product_kernels().panel * (format == Format::kPairs ? (k + 1) / 2 * 2 : k);
}

// The shape of a product: y [m, n] += or = a [m, k] · b [k, n].
struct Shape {
  int64_t m, n, k;
};

int64_t panels_of(int64_t columns) { return (columns + product_kernels().panel - 1) / product_kernels().panel; }

// Calls f(first panel, panels, first row, rows) for parts of `rows` by `panels`, on libtorch's threads. The partition
// does not affect any element. A thread takes the next part when it finishes one, because cores differ in speed.
template <class F>
void each_part(int64_t rows, int64_t panels, int64_t k, const F& f) {
  if (rows == 0 || panels == 0) return;
  const ProductKernels& kernels = product_kernels();
  const int64_t work = rows * panels * kernels.panel * k / kGrain, threads = at::get_num_threads();
  // Rows are split first, because a part copies its rows once; columns too if there are few rows. Each thread gets the
  // same number of parts, or one would wait.
  const int64_t needed = std::max((rows + kBlockRows - 1) / kBlockRows, std::min(2 * threads, rows / (kBlockRows / 2)));
  const int64_t blocks = needed > threads ? (needed + threads - 1) / threads * threads : needed;
  const int64_t wanted = std::min(work, blocks > 2 ? 2 * threads : 4 * threads);
  const int64_t groups = std::clamp<int64_t>((wanted + blocks - 1) / blocks, 1, panels);
  each_item(blocks * groups, work, [&](int64_t i) {
    const int64_t block = i / groups, group = i % groups;
    const int64_t row = rows * block / blocks, panel = panels * group / groups;
    f(panel, panels * (group + 1) / groups - panel, row, rows * (block + 1) / blocks - row);
  });
}

Left rows_from(Left a, int64_t row, Format format) {
  const int64_t size = format == Format::kPairs ? 2 : 4;
  return {static_cast<const char*>(a.data) + row * a.row * size, a.row, a.col};
}

// T: float, or uint16_t for bf16.
template <class T>
void pack(Format format, Strided<T> b, int64_t k, int64_t first, int64_t count, void* panels) {
  if constexpr (sizeof(T) == 4)
    product_kernels().pack_float(b, k, first, count, static_cast<float*>(panels));
  else
    product_kernels().pack_bf16(format, b, k, first, count, static_cast<uint16_t*>(panels));
}

// y = a · b or y += a · b, packing b on the way.
template <class T>
void multiply(Format format, Shape s, Left a, Strided<T> b, float* y, int64_t y_row, bool add) {
  if (s.k == 0) {
    // An empty sum.
    for (int64_t r = 0; r < s.m && !add; ++r) std::fill_n(y + r * y_row, s.n, 0.0f);
    return;
  }
  const ProductKernels& kernels = product_kernels();
  const int64_t size = panel_size(format, s.k), panels = panels_of(s.n), most = std::max<int64_t>(1, kPacked / size);
  const Tensor room = at::empty({std::min(panels, most) * size}, sizeof(T) == 4 ? at::kFloat : at::kBFloat16);
  T* packed = static_cast<T*>(room.mutable_data_ptr());
  for (int64_t first = 0; first < panels; first += most) {
    const int64_t count = std::min(most, panels - first);
    const auto columns = [&](int64_t panel, int64_t count) {
      return std::min(s.n, (first + panel + count) * kernels.panel) - (first + panel) * kernels.panel;
    };
    at::parallel_for(0, count, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
      pack<T>(format, b, s.k, (first + begin) * kernels.panel, columns(begin, end - begin), packed + begin * size);
    });
    each_part(s.m, count, s.k, [&](int64_t panel, int64_t panels, int64_t row, int64_t rows) {
      kernels.multiply(format, rows_from(a, row, format), packed + panel * size,
                       y + row * y_row + (first + panel) * kernels.panel, y_row, rows, s.k, columns(panel, panels),
                       add);
    });
  }
}

bool is_bf16(const Tensor& t) { return t.scalar_type() == at::kBFloat16; }

// Calls f(Strided) with the elements of a contiguous matrix, [rows, cols], or of its transpose.
template <class F>
void with_elements(const Tensor& t, bool transposed, const F& f) {
  const int64_t cols = t.size(1), row = transposed ? 1 : cols, col = transposed ? cols : 1;
  if (is_bf16(t))
    f(Strided<uint16_t>{static_cast<const uint16_t*>(t.const_data_ptr()), row, col});
  else
    f(Strided<float>{t.const_data_ptr<float>(), row, col});
}

bool computed_here(const Tensor& t) {
  return t.device().is_cpu() && t.scalar_type() != at::kDouble && at::isFloatingType(t.scalar_type());
}

// Returns a matrix in a dtype that the kernels support: fp16 is widened.
Tensor plain(const Tensor& t) { return (t.scalar_type() == at::kHalf ? t.to(at::kFloat) : t).contiguous(); }
Tensor wide(const Tensor& t) { return t.to(at::kFloat).contiguous(); }

// Whether libtorch returns products of these in fp32 without rounding the sums first.
bool has_wide_results(const Tensor& t) {
  return t.is_cuda() && (t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kHalf);
}

// libtorch computes the backward pass of bf16 models on CPUs with bf16 instructions.
bool backward_here(const Tensor& t) { return computed_here(t) && !(is_bf16(t) && library_has_fast_bf16()); }

// vdpbf16ps requires whole pairs.
Format format_for(const Tensor& w) {
  if (!is_bf16(w)) return Format::kFloat;
  return w.size(1) % 2 == 0 ? bf16_format() : Format::kWidened;
}

}  // namespace

PackedWeight::PackedWeight(const Tensor& w) : format(format_for(w)), n(w.size(0)), k(w.size(1)) {
  TORCH_CHECK(w.is_contiguous() && w.device().is_cpu() && (w.scalar_type() == at::kFloat || is_bf16(w)),
              "pack_weight: expected a contiguous fp32 or bf16 matrix on the CPU");
  const int64_t panel = product_kernels().panel, size = panel_size(format, k);
  panels = at::empty({(n + panel - 1) / panel * size}, w.options());
  with_elements(w, /*transposed=*/true, [&](auto elements) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(elements.data)>>;
    T* to = static_cast<T*>(panels.mutable_data_ptr());
    at::parallel_for(0, (n + panel - 1) / panel, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, size)),
                     [&](int64_t begin, int64_t end) {
                       pack<T>(format, elements, k, begin * panel, std::min(n, end * panel) - begin * panel,
                               to + begin * size);
                     });
  });
}

void PackedWeight::multiply(const float* x, int64_t x_row, float* y, int64_t m) const {
  const ProductKernels& kernels = product_kernels();
  if (k == 0) std::fill_n(y, m * n, 0.0f);
  Left a{x, x_row, 1};
  Tensor narrowed;
  if (format == Format::kPairs) {
    // This is exact, because the values are bf16 already.
    narrowed = at::from_blob(const_cast<float*>(x), {m, k}, {x_row, 1}, at::kFloat).to(at::kBFloat16).contiguous();
    a = {narrowed.const_data_ptr(), k, 1};
  }
  const int64_t size = panel_size(format, k) * panels.element_size();
  each_part(m, panels_of(n), k, [&](int64_t panel, int64_t panels, int64_t row, int64_t rows) {
    const int64_t first = panel * kernels.panel, columns = std::min(n, (panel + panels) * kernels.panel) - first;
    kernels.multiply(format, rows_from(a, row, format),
                     static_cast<const char*>(this->panels.const_data_ptr()) + panel * size, y + row * n + first, n,
                     rows, k, columns, false);
  });
}

Tensor product(const Tensor& x, const Tensor& w, bool wide_result) {
  const bool library = !computed_here(x) || (is_bf16(x) && library_multiplies_bf16() && x.size(0) > kFewRows);
  if (library) {
    if (!wide_result || x.scalar_type() == at::kFloat) return at::mm(x, w.t());
    return has_wide_results(x) ? at::mm(x, w.t(), at::kFloat) : at::mm(x, w.t()).to(at::kFloat);
  }
  const Tensor weights = plain(w);
  const Format format = format_for(weights);
  const Tensor left = format == Format::kPairs ? x.contiguous() : wide(x);
  const Shape s{x.size(0), w.size(0), w.size(1)};
  Tensor y = at::empty({s.m, s.n}, x.options().dtype(at::kFloat));
  with_elements(weights, /*transposed=*/true, [&](auto elements) {
    multiply(format, s, {left.const_data_ptr(), s.k, 1}, elements, y.mutable_data_ptr<float>(), s.n, false);
  });
  return wide_result ? y : y.to(x.scalar_type());
}

Tensor input_gradient(const Tensor& dy, const Tensor& w) {
  if (!backward_here(w)) return at::mm(dy.to(w.scalar_type()), w);
  const Tensor left = wide(dy), weights = plain(w);
  const int64_t k = w.size(0), chains = std::max<int64_t>(1, (k + kLongestChain - 1) / kLongestChain);
  Tensor dx = at::empty({dy.size(0), w.size(1)}, dy.options().dtype(at::kFloat));
  Tensor more = chains > 1 ? at::empty_like(dx) : dx;
  for (int64_t chain = 0; chain < chains; ++chain) {
    const int64_t from = k * chain / chains, to = k * (chain + 1) / chains;
    const Shape s{dy.size(0), w.size(1), to - from};
    Tensor& sum = chain ? more : dx;
    with_elements(weights, /*transposed=*/false, [&](auto elements) {
      const Format format = is_bf16(weights) ? Format::kWidened : Format::kFloat;
      elements.data += from * elements.row;
      multiply(format, s, {left.const_data_ptr<float>() + from, k, 1}, elements, sum.mutable_data_ptr<float>(), s.n,
               false);
    });
    if (chain) dx.add_(more);
  }
  return dx.to(w.scalar_type());
}

void add_weight_gradient(Tensor grad, const Tensor& dy, const Tensor& x) {
  if (!backward_here(x)) {
    const Tensor left = dy.to(x.scalar_type()).t();
    if (grad.scalar_type() == x.scalar_type())
      grad.addmm_(left, x);
    else if (grad.scalar_type() == at::kFloat && has_wide_results(x))
      at::addmm_out(grad, grad, left, x, at::kFloat);
    else
      grad.add_(at::mm(left, x));
    return;
  }
  const Tensor left = wide(dy), right = plain(x);
  const Shape s{dy.size(1), x.size(1), dy.size(0)};
  const bool in_place = grad.scalar_type() == at::kFloat && grad.is_contiguous();
  Tensor sums = in_place ? grad : at::empty({s.m, s.n}, left.options());
  with_elements(right, /*transposed=*/false, [&](auto elements) {
    const Format format = is_bf16(right) ? Format::kWidened : Format::kFloat;
    multiply(format, s, {left.const_data_ptr(), 1, s.m}, elements, sums.mutable_data_ptr<float>(), s.n, in_place);
  });
  if (!in_place) grad.add_(sums);
}

Tensor for_backward(const Tensor& dy) { return backward_here(dy) ? wide(dy) : dy.contiguous(); }

}  // namespace xplore
