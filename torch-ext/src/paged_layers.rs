//! All layers of a decoder for the new tokens of a forward pass in one call, on the CPU. Not differentiable.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::ops::ensure;
use crate::packed::PackedWeight;
use crate::paged_attention::{PagedQueries, Slots, check_queries, check_slots, shape_of};
use crate::{TorchError, ffi};

/// The weights of one layer, [out, in] each, and its KV cache. hidden: width of the residual stream; width: width of
/// the MLP.
#[derive(Debug, Clone, Copy)]
pub struct PagedLayer<'a> {
    /// Weight of the RMSNorm before attention, `[hidden]`.
    pub input_norm: &'a Tensor,
    /// Query, key and value projections, [(heads + 2·kv_heads)·dim, hidden].
    pub qkv: &'a PackedWeight,
    /// Bias of `qkv`, [(heads + 2·kv_heads)·dim].
    pub qkv_bias: Option<&'a Tensor>,
    /// Weights of the per-head RMSNorm of queries and keys, `[dim]` each.
    pub qk_norm: Option<(&'a Tensor, &'a Tensor)>,
    /// Output projection of attention, [hidden, heads·dim].
    pub o: &'a PackedWeight,
    /// Bias of `o`, `[hidden]`.
    pub o_bias: Option<&'a Tensor>,
    /// Weight of the RMSNorm before the MLP, `[hidden]`.
    pub post_norm: &'a Tensor,
    /// Gate and up projections of the MLP, [2·width, hidden].
    pub gate_up: &'a PackedWeight,
    /// Down projection of the MLP, [hidden, width].
    pub down: &'a PackedWeight,
    /// Biases of `gate_up`, [2·width], and of `down`, `[hidden]`.
    pub mlp_bias: Option<(&'a Tensor, &'a Tensor)>,
    /// Cached keys, [blocks, kv_heads, dim, BLOCK].
    pub keys: &'a Tensor,
    /// Cached values, [blocks, kv_heads, BLOCK, dim].
    pub values: &'a Tensor,
}

/// [`PagedLayer`] in the layout of the shim.
#[repr(C)]
pub(crate) struct RawLayer([*mut C_tensor; 10], [*mut ffi::Panels; 4]);

/// The new tokens in the layout of the shim.
#[repr(C)]
pub(crate) struct RawTokens {
    cos: *const f32,
    sin: *const f32,
    slots: *const i64,
    table: *const i32,
    begin: *const i64,
    length: *const i64,
    n: i64,
    outputs: *const i64,
    n_outputs: i64,
}

/// Returns the maximum number of tokens per call of [`paged_layers`], or 0 if it has no kernels for this device, dtype
/// and head size: it supports fp32 and bf16 on the CPU, and an even head size up to 512. The number is limited only
/// where libtorch multiplies bf16 with instructions that these kernels do not use (`XPLORE_CPU`).
pub fn most_paged_tokens(device: Device, kind: Kind, head_dim: i64) -> usize {
    if device != Device::Cpu || !matches!(kind, Kind::Float | Kind::BFloat16) || head_dim % 2 != 0 || head_dim > 512 {
        return 0;
    }
    // SAFETY: no pointers.
    let most = unsafe { ffi::xt_most_paged_tokens((kind == Kind::BFloat16).into()) };
    usize::try_from(most).unwrap_or(0)
}

/// Runs all layers of a decoder over `n` new tokens. The keys and values of the tokens go to `slots` of each layer's
/// cache, and each token attends to the positions that `queries` names, including its own.
/// x: [n, hidden]; cos, sin: [n, dim / 2], fp32; outputs: ascending indices of the tokens to return. Returns the last
/// layer's output for these tokens, [outputs, hidden]. Every token gets the same bits as from the single operations of
/// this crate.
///
/// # Errors
/// Returns an error if `n` is 0 or exceeds [`most_paged_tokens`], or if shapes, dtypes or devices do not match.
#[expect(clippy::too_many_arguments, reason = "what a decoder layer needs")]
pub fn paged_layers(
    x: &Tensor,
    layers: &[PagedLayer<'_>],
    (cos, sin): (&Tensor, &Tensor),
    slots: &Slots,
    queries: &PagedQueries,
    outputs: &[i64],
    heads: i64,
    eps: f64,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let first = layers.first().ok_or_else(|| TorchError::Argument("paged_layers: no layers".into()))?;
    let [_, kv_heads, dim] = shape_of(first.keys, first.values)?;
    let (n, hidden) = x.size2().map_err(|_| TorchError::Argument(format!("paged_layers: x is {:?}", x.size())))?;
    let width = first.down.size()[1];
    let most = most_paged_tokens(x.device(), x.kind(), dim);
    let fits = n > 0 && n as usize <= most && heads % kv_heads == 0;
    ensure(fits, || format!("paged_layers: x is {:?} of {:?}, {heads} heads, MLP of {width}", x.size(), x.kind()))?;
    let angles = |t: &Tensor| {
        t.size() == [n, dim / 2] && t.kind() == Kind::Float && t.device() == x.device() && t.is_contiguous()
    };
    ensure(angles(cos) && angles(sin), || {
        format!("paged_layers: cos is {:?}, sin {:?}, expected [{n}, {}]", cos.size(), sin.size(), dim / 2)
    })?;
    let mut raw = Vec::with_capacity(layers.len());
    let mut least = i64::MAX;
    for layer in layers {
        let [blocks, ..] = layer.check([hidden, width, heads, kv_heads, dim], x)?;
        least = least.min(blocks);
        raw.push(layer.raw());
    }
    // What lies inside the smallest cache lies inside all of them.
    check_slots(&slots.at, n, least)?;
    check_queries(queries, n, least)?;
    let ascending = outputs.windows(2).all(|pair| pair[0] < pair[1]);
    ensure(ascending && outputs.iter().all(|at| (0..n).contains(at)), || {
        format!("paged_layers: outputs {outputs:?} of {n} tokens; expected ascending token indices")
    })?;
    let tokens = RawTokens {
        cos: cos.data_ptr().cast_const().cast(),
        sin: sin.data_ptr().cast_const().cast(),
        slots: slots.at.as_ptr(),
        table: queries.table.as_ptr(),
        begin: queries.begin.as_ptr(),
        length: queries.length.as_ptr(),
        n,
        outputs: outputs.as_ptr(),
        n_outputs: outputs.len() as i64,
    };
    // SAFETY: live tensors whose shapes, dtype, device and contiguity were checked; every slot and block lies inside
    // the caches; all arrays outlive the call.
    ffi::one(|made| unsafe {
        ffi::xt_paged_layers(
            ffi::raw(x),
            raw.as_ptr(),
            raw.len() as i64,
            &raw const tokens,
            width,
            heads,
            kv_heads,
            dim,
            eps,
            scale,
            made,
        )
    })
}

impl PagedLayer<'_> {
    /// Checks the weights and the cache, and returns the shape of the cache.
    fn check(&self, [hidden, width, heads, kv_heads, dim]: [i64; 5], x: &Tensor) -> Result<[i64; 3], TorchError> {
        let cache = shape_of(self.keys, self.values)?;
        let like = |t: &Tensor| t.kind() == x.kind() && t.device() == x.device() && t.is_contiguous();
        let is = |t: &Tensor, shape: &[i64]| t.size() == shape && like(t);
        let packed = |w: &PackedWeight, shape: [i64; 2]| w.size() == shape && w.kind() == x.kind();
        let may = |t: Option<&Tensor>, size: i64| t.is_none_or(|t| is(t, &[size]));
        let (q, k) = self.qk_norm.unzip();
        let (gate_up, down) = self.mlp_bias.unzip();
        let qkv = (heads + 2 * kv_heads) * dim;
        let fits = is(self.input_norm, &[hidden])
            && is(self.post_norm, &[hidden])
            && packed(self.qkv, [qkv, hidden])
            && packed(self.o, [hidden, heads * dim])
            && packed(self.gate_up, [2 * width, hidden])
            && packed(self.down, [hidden, width])
            && may(self.qkv_bias, qkv)
            && may(self.o_bias, hidden)
            && may(q, dim)
            && may(k, dim)
            && may(gate_up, 2 * width)
            && may(down, hidden)
            && like(self.keys)
            && cache[1..] == [kv_heads, dim];
        ensure(fits, || format!("paged_layers: invalid weights of a layer: {self:?}"))?;
        Ok(cache)
    }

    fn raw(&self) -> RawLayer {
        let may = |t: Option<&Tensor>| t.map_or(std::ptr::null_mut(), ffi::raw);
        let (q, k) = self.qk_norm.unzip();
        let (gate_up, down) = self.mlp_bias.unzip();
        RawLayer(
            [
                ffi::raw(self.input_norm),
                may(self.qkv_bias),
                may(q),
                may(k),
                may(self.o_bias),
                ffi::raw(self.post_norm),
                may(gate_up),
                may(down),
                ffi::raw(self.keys),
                ffi::raw(self.values),
            ],
            [self.qkv.raw(), self.o.raw(), self.gate_up.raw(), self.down.raw()],
        )
    }
}
