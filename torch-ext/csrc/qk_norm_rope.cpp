// RMSNorm of query and key heads, RoPE, and the split of their common projection, in one pass over it. Included after
// functions.cpp, whose helpers it uses.

namespace {

struct QkNormRope : Function<QkNormRope> {
  static variable_list forward(AutogradContext* ctx, Tensor qkv, Maybe q_weight, Maybe k_weight, Maybe dq_norm,
                               Maybe dk_norm, Tensor cos, Tensor sin, int64_t heads, double eps) {
    qkv = qkv.contiguous();
    const Tensor q_norm = or_none(q_weight), k_norm = or_none(k_weight);
    const int64_t rows = qkv.size(0), dim = qkv.size(2), kv = (qkv.size(1) - heads) / 2;
    const xplore::HeadsShape shape{heads, kv, dim, static_cast<float>(eps)};
    const bool normed = q_norm.defined();
    Tensor q = at::empty({rows, heads, dim}, qkv.options()), k = at::empty({rows, kv, dim}, qkv.options());
    Tensor v = at::empty_like(k), inv = at::empty({rows, heads + kv}, qkv.options().dtype(at::kFloat));
    const bool gpu = xplore::has_gpu_kernels(qkv);
    if (gpu)
      xplore::launch(qkv, "qk_norm_rope", xplore::warps(rows * qkv.size(1)), xplore::kThreads, pointer(qkv),
                     pointer(q_norm), pointer(k_norm), pointer(cos), pointer(sin), pointer(q), pointer(k), pointer(v),
                     pointer(inv), rows, heads, kv, dim, static_cast<float>(eps));
    at::parallel_for(0, gpu ? 0 : rows, grain(qkv.size(1) * dim), [&](int64_t b, int64_t e) {
      if (is_bf16(qkv))
        xplore::qk_norm_rope(shape, bits(qkv), normed ? bits(q_norm) : nullptr, normed ? bits(k_norm) : nullptr,
                             floats(cos), floats(sin), bits(q), bits(k), bits(v), floats(inv), b, e);
      else
        xplore::qk_norm_rope(shape, floats(qkv), normed ? floats(q_norm) : nullptr, normed ? floats(k_norm) : nullptr,
                             floats(cos), floats(sin), floats(q), floats(k), floats(v), floats(inv), b, e);
    });
    ctx->save_for_backward({normed ? qkv : Tensor(), q_norm, k_norm, cos, sin, inv});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["kv"] = kv;
    ctx->saved_data["wanted"] = normed && (dq_norm || q_norm.requires_grad());
    keep(ctx, "dq_norm", dq_norm);
    keep(ctx, "dk_norm", dk_norm);
    return {q, k, v};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor dq = grads[0].contiguous(), dk = grads[1].contiguous(), dv = grads[2].contiguous();
    const Tensor &qkv = saved[0], &q_norm = saved[1], &k_norm = saved[2], &cos = saved[3], &sin = saved[4];
    const Tensor& inv = saved[5];
    const int64_t heads = ctx->saved_data["heads"].toInt(), kv = ctx->saved_data["kv"].toInt();
    const int64_t rows = dq.size(0), dim = dq.size(2);
    const xplore::HeadsShape shape{heads, kv, dim, 0};
    const bool normed = q_norm.defined(), wanted = ctx->saved_data["wanted"].toBool();
    const bool gpu = xplore::has_gpu_kernels(dq);
    const int64_t pieces = gpu ? gpu_pieces(rows) : pieces_of(rows, (heads + kv) * dim);
    Tensor dqkv = at::empty({rows, heads + 2 * kv, dim}, dq.options());
    Tensor sums = at::zeros({wanted ? pieces : 0, 2, dim}, inv.options());
    if (gpu) {
      xplore::launch(dq, "qk_norm_rope_input", xplore::warps(rows * dqkv.size(1)), xplore::kThreads, pointer(dq),
                     pointer(dk), pointer(dv), pointer(qkv), pointer(q_norm), pointer(k_norm), pointer(cos),
                     pointer(sin), pointer(inv), pointer(dqkv), rows, heads, kv, dim);
      if (wanted)
        xplore::launch(dq, "qk_norm_rope_weight", {xplore::threads(dim).x, pieces, 2}, xplore::kThreads, pointer(dq),
                       pointer(dk), pointer(qkv), pointer(cos), pointer(sin), pointer(inv), pointer(sums), rows, heads,
                       kv, dim);
    }
    at::parallel_for(0, gpu ? 0 : pieces, 1, [&](int64_t b, int64_t e) {
      for (int64_t p = b; p < e; ++p) {
        const int64_t from = rows * p / pieces, to = rows * (p + 1) / pieces;
        float* sum = wanted ? floats(sums) + p * 2 * dim : nullptr;
        float* second = wanted ? sum + dim : nullptr;
        if (is_bf16(dq))
          xplore::qk_norm_rope_backward(shape, bits(dq), bits(dk), bits(dv), normed ? bits(qkv) : bits(dqkv),
                                        normed ? bits(q_norm) : nullptr, normed ? bits(k_norm) : nullptr, floats(cos),
                                        floats(sin), floats(inv), bits(dqkv), sum, second, from, to);
        else
          xplore::qk_norm_rope_backward(shape, floats(dq), floats(dk), floats(dv), normed ? floats(qkv) : floats(dqkv),
                                        normed ? floats(q_norm) : nullptr, normed ? floats(k_norm) : nullptr,
                                        floats(cos), floats(sin), floats(inv), floats(dqkv), sum, second, from, to);
      }
    });
    Tensor first, second;
    if (wanted) {
      Tensor both = sums.sum(0);
      first = deliver(kept(ctx, "dq_norm"), both[0]);
      second = deliver(kept(ctx, "dk_norm"), both[1]);
      if (first.defined()) first = first.to(q_norm.scalar_type()), second = second.to(q_norm.scalar_type());
    }
    return {dqkv, first, second, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor rope_plain(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  Tensor c = cos.unsqueeze(1).to(x.scalar_type()), s = sin.unsqueeze(1).to(x.scalar_type());
  Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  return at::cat({a * c - b * s, b * c + a * s}, -1);
}

}  // namespace

extern "C" {

// result: q, k, v.
int xt_qk_norm_rope(Tensor* qkv, Tensor* q_norm, Tensor* k_norm, Tensor* dq_norm, Tensor* dk_norm, Tensor* cos,
                    Tensor* sin, int64_t heads, double eps, Tensor** result) {
  return guarded([&] {
    const int64_t dim = qkv->size(2), kv = (qkv->size(1) - heads) / 2;
    const bool loops = for_loops(*qkv) && dim <= xplore::kMostHeadDim && (!q_norm || for_loops(*qkv, *q_norm, *k_norm));
    const bool gpu = for_gpu(dim, *qkv) && (!q_norm || for_gpu(dim, *qkv, *q_norm, *k_norm));
    if (loops || gpu) {
      auto found =
          QkNormRope::apply(*qkv, maybe(q_norm), maybe(k_norm), maybe(dq_norm), maybe(dk_norm), *cos, *sin, heads, eps);
      for (int i = 0; i < 3; ++i) result[i] = new Tensor(found[i]);
      return;
    }
    Tensor q = qkv->narrow(1, 0, heads), k = qkv->narrow(1, heads, kv);
    if (q_norm) {
      q = rms_norm_plain(q, with_sink(*q_norm, q, dq_norm), eps);
      k = rms_norm_plain(k, with_sink(*k_norm, k, dk_norm), eps);
    }
    result[0] = new Tensor(rope_plain(q, *cos, *sin));
    result[1] = new Tensor(rope_plain(k, *cos, *sin));
    result[2] = new Tensor(qkv->narrow(1, heads + kv, kv));
  });
}
}
