// Log-probabilities and entropies of logits, and their backward pass in place.
#include <ATen/Parallel.h>
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "gpu/launch.h"
#include "guard.h"
#include "kernels.h"
#include "tensor_data.h"

using at::Tensor;
using xplore::floats;
using xplore::guarded;

namespace {

// Backward fallback of operations that every device supports; entropy and entropy_coefficients may be null.
void backward_plain(Tensor& logits, const Tensor& targets, const Tensor& lse, const Tensor& coefficients,
                    const Tensor* entropy, const Tensor* entropy_coefficients) {
  const Tensor c = coefficients.unsqueeze(-1);
  logits.sub_(lse.unsqueeze(-1));
  if (entropy) {
    const Tensor p = logits.exp();
    logits.add_(entropy->unsqueeze(-1)).mul_(entropy_coefficients->unsqueeze(-1)).add_(c).mul_(p).neg_();
  } else {
    logits.exp_().mul_(-c);
  }
  logits.scatter_add_(-1, targets.unsqueeze(-1), c);
}

bool for_gpu(const Tensor& logits, const Tensor& targets) {
  return xplore::has_gpu_kernels(logits) && logits.scalar_type() == at::kFloat && logits.is_contiguous() &&
         targets.is_contiguous();
}

}  // namespace

extern "C" {

// result: logsumexp, log-probabilities of the targets, entropies.
int xt_cross_entropy(Tensor* logits, Tensor* targets, Tensor** result) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const int64_t rows = logits->size(0), vocab = logits->size(1);
    if (for_gpu(*logits, *targets)) {
      Tensor found = at::empty({3, rows}, logits->options());
      float *lse = found.mutable_data_ptr<float>(), *logprobs = lse + rows, *entropy = logprobs + rows;
      xplore::launch(*logits, "cross_entropy", {rows}, xplore::kThreads, logits->const_data_ptr(),
                     targets->const_data_ptr(), lse, logprobs, entropy, vocab);
      for (int i = 0; i < 3; ++i) result[i] = new Tensor(found[i]);
      return;
    }
    if (!logits->device().is_cpu()) {
      Tensor lse = logits->logsumexp({-1}, true);
      Tensor logprobs = (logits->gather(-1, targets->unsqueeze(-1)) - lse).squeeze(-1);
      Tensor shifted = *logits - lse;
      result[2] = new Tensor(-(shifted.exp() * shifted).sum(-1));
      result[1] = new Tensor(logprobs);
      result[0] = new Tensor(lse.squeeze(-1));
      return;
    }
    Tensor found = at::empty({3, rows}, logits->options());
    float *lse = found.mutable_data_ptr<float>(), *logprobs = lse + rows, *entropy = logprobs + rows;
    const float* numbers = floats(*logits);
    const int64_t* ids = targets->const_data_ptr<int64_t>();
    at::parallel_for(0, rows, 1, [&](int64_t b, int64_t e) {
      xplore::cross_entropy_rows(numbers, ids, lse, logprobs, entropy, b, e, vocab);
    });
    for (int i = 0; i < 3; ++i) result[i] = new Tensor(found[i]);
  });
}

// On the CPU: result[0] = e^(logits - row maximum), [rows, vocab], fp32; result[1] = the row maxima, then the
// logarithms of the row sums, [2, rows], double.
int xt_softmax(Tensor* logits, Tensor** result) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const int64_t rows = logits->size(0), vocab = logits->size(1);
    Tensor exponentials = at::empty({rows, vocab}, logits->options());
    Tensor sums = at::empty({2, rows}, logits->options().dtype(at::kDouble));
    float* to = exponentials.mutable_data_ptr<float>();
    double* most = sums.mutable_data_ptr<double>();
    at::parallel_for(0, rows, std::max<int64_t>(1, 8192 / vocab), [&](int64_t b, int64_t e) {
      xplore::softmax_rows(floats(*logits), to, most, most + rows, b, e, vocab);
    });
    result[0] = new Tensor(exponentials);
    result[1] = new Tensor(sums);
  });
}

// Replaces logits in place with the gradient of sum_r coefficients[r] * logprobs[r] + entropy_coefficients[r] *
// entropy[r] with respect to them. If entropy and entropy_coefficients are null, the entropy term is omitted.
int xt_cross_entropy_backward(Tensor* logits, Tensor* targets, Tensor* lse, Tensor* coefficients, Tensor* entropy,
                              Tensor* entropy_coefficients) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const int64_t rows = logits->size(0), vocab = logits->size(1);
    if (for_gpu(*logits, *targets)) {
      const auto of = [](const Tensor* t) { return t ? t->const_data_ptr() : nullptr; };
      // The grid's y dimension limits the number of rows per launch.
      for (int64_t begin = 0, most = 65535; begin < rows; begin += most) {
        const int64_t count = std::min(most, rows - begin);
        const auto part = [&](const Tensor* t) { return t ? t->narrow(0, begin, count) : Tensor(); };
        const Tensor rows_here = part(logits), ids = part(targets), sums = part(lse), c = part(coefficients);
        const Tensor h = part(entropy), weights = part(entropy_coefficients);
        xplore::launch(rows_here, "cross_entropy_input", {xplore::threads(vocab).x, count}, xplore::kThreads,
                       rows_here.mutable_data_ptr(), of(&ids), of(&sums), of(&c), of(entropy ? &h : nullptr),
                       of(entropy ? &weights : nullptr), vocab);
      }
      return;
    }
    if (!logits->device().is_cpu()) {
      backward_plain(*logits, *targets, *lse, *coefficients, entropy, entropy_coefficients);
      return;
    }
    float* numbers = logits->mutable_data_ptr<float>();
    const float *sums = floats(*lse), *c = floats(*coefficients);
    const float* h = entropy ? floats(*entropy) : nullptr;
    const float* weights = entropy ? floats(*entropy_coefficients) : nullptr;
    const int64_t* ids = targets->const_data_ptr<int64_t>();
    at::parallel_for(0, rows, 1, [&](int64_t b, int64_t e) {
      if (entropy)
        xplore::cross_entropy_rows_backward(numbers, ids, sums, c, h, weights, b, e, vocab);
      else
        xplore::cross_entropy_rows_backward(numbers, ids, sums, c, b, e, vocab);
    });
  });
}
}
