//! The paged KV cache of the inference engine: writing to it and attending to it. Not differentiable.
#![expect(unsafe_code, reason = "calls into the C shim")]

use std::cell::OnceCell;
use std::ops::Range;

use tch::{Device, Tensor};

use crate::memory::upload;
use crate::ops::ensure;
use crate::{TorchError, ffi};

/// Number of positions per block. The kernels are compiled for this value.
pub const BLOCK: usize = 32;

/// Query positions and the cached positions that each attends to.
#[derive(Debug, Default)]
pub struct PagedQueries {
    pub(crate) table: Vec<i32>,
    pub(crate) begin: Vec<i64>,
    pub(crate) length: Vec<i64>,
    /// `table`, `begin` and `length` on a GPU, uploaded on first use and shared by all layers.
    on_device: OnceCell<[Tensor; 3]>,
}

/// The cache slots of new positions: block · [`BLOCK`] + offset in the block.
#[derive(Debug, Default)]
pub struct Slots {
    pub(crate) at: Vec<i64>,
    on_device: OnceCell<Tensor>,
}

impl From<Vec<i64>> for Slots {
    fn from(at: Vec<i64>) -> Self {
        Self { at, on_device: OnceCell::new() }
    }
}

impl Slots {
    fn on(&self, device: Device) -> &Tensor {
        self.on_device.get_or_init(|| upload(&self.at, device))
    }
}

/// Returns whether the GPU kernels support this tensor.
fn for_gpu(t: &Tensor) -> bool {
    // SAFETY: a live tensor.
    unsafe { ffi::xt_has_gpu_kernels(ffi::raw(t)) != 0 }
}

impl PagedQueries {
    /// Adds the positions `queries` of a sequence whose keys and values lie in `blocks`, in order. Each query attends
    /// to every position up to and including its own.
    pub fn push_row(&mut self, blocks: &[u32], queries: Range<usize>) {
        self.on_device.take();
        let begin = self.table.len() as i64;
        self.table.extend(blocks.iter().map(|&block| block.cast_signed()));
        for position in queries {
            self.begin.push(begin);
            self.length.push(position as i64 + 1);
        }
    }

    fn on(&self, device: Device) -> &[Tensor; 3] {
        self.on_device
            .get_or_init(|| [upload(&self.table, device), upload(&self.begin, device), upload(&self.length, device)])
    }

    /// Returns whether there are no queries.
    pub fn is_empty(&self) -> bool {
        self.begin.is_empty()
    }
}

/// Checks one layer's cache and returns its shape: blocks, kv_heads, head_dim.
pub(crate) fn shape_of(keys: &Tensor, values: &Tensor) -> Result<[i64; 3], TorchError> {
    let (k, v) = (keys.size(), values.size());
    let fits = k.len() == 4 && k[3] == BLOCK as i64 && v == [k[0], k[1], k[3], k[2]];
    let alike = keys.kind() == values.kind() && keys.device() == values.device();
    ensure(fits && alike && keys.is_contiguous() && values.is_contiguous(), || {
        format!(
            "paged cache: keys {k:?}, values {v:?}; expected [blocks, heads, dim, {BLOCK}], [blocks, heads, {BLOCK}, dim]"
        )
    })?;
    Ok([k[0], k[1], k[2]])
}

/// Checks that there is one slot for each of `n` positions, and that all lie inside `blocks` blocks.
pub(crate) fn check_slots(slots: &[i64], n: i64, blocks: i64) -> Result<(), TorchError> {
    let inside = slots.iter().all(|slot| (0..blocks * BLOCK as i64).contains(slot));
    ensure(inside && slots.len() as i64 == n, || {
        format!("{} slots for {n} positions, or a slot outside the {blocks} blocks", slots.len())
    })
}

/// Checks that there are `n` queries, at least one, and that none attends to positions outside `blocks` blocks.
pub(crate) fn check_queries(queries: &PagedQueries, n: i64, blocks: i64) -> Result<(), TorchError> {
    let table = queries.table.len() as i64;
    let inside = queries.table.iter().all(|&block| (0..blocks).contains(&i64::from(block)))
        && queries.begin.iter().zip(&queries.length).all(|(b, n)| b + (n + BLOCK as i64 - 1) / BLOCK as i64 <= table);
    let count = queries.begin.len() as i64;
    ensure(inside && count == n && n > 0, || format!("{count} queries for {n} positions, or a query outside the cache"))
}

/// Writes the keys and values of new positions to a layer's cache.
/// keys: [blocks, kv_heads, dim, BLOCK]; values: [blocks, kv_heads, BLOCK, dim]; k, v: [n, kv_heads, dim]; slots: block
/// · BLOCK + offset in the block, one per position.
///
/// # Errors
/// Returns an error if a slot lies outside the cache, or if shapes, dtypes or devices differ.
pub fn write_paged(keys: &Tensor, values: &Tensor, k: &Tensor, v: &Tensor, slots: &Slots) -> Result<(), TorchError> {
    let [blocks, heads, dim] = shape_of(keys, values)?;
    let n = k.size().first().copied().unwrap_or(0);
    let expected = [n, heads, dim];
    let same = |t: &Tensor| t.size() == expected && t.kind() == keys.kind() && t.device() == keys.device();
    ensure(same(k) && same(v), || format!("write_paged: k {:?}, v {:?}, expected {expected:?}", k.size(), v.size()))?;
    check_slots(&slots.at, n, blocks)?;
    let on_device = for_gpu(k).then(|| slots.on(k.device()));
    // SAFETY: live tensors; every slot lies inside the contiguous cache.
    ffi::check(unsafe {
        ffi::xt_write_paged(
            ffi::raw(keys),
            ffi::raw(values),
            ffi::raw(k),
            ffi::raw(v),
            slots.at.as_ptr(),
            ffi::raw_or_null(on_device),
        )
    })
}

/// Computes attention of single query positions over cached positions. q: [n, heads, dim] → [n, heads, dim]. Scores are
/// computed in fp32.
///
/// # Errors
/// Returns an error if a query's blocks lie outside the cache, or if shapes, dtypes or devices do not match.
pub fn paged_attention(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    queries: &PagedQueries,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let [blocks, kv_heads, dim] = shape_of(keys, values)?;
    let size = q.size();
    let fits = size.len() == 3 && size[1] % kv_heads == 0 && size[2] == dim;
    ensure(fits && q.kind() == keys.kind() && q.device() == keys.device(), || {
        format!("paged_attention: q is {size:?}, cache {:?}", keys.size())
    })?;
    check_queries(queries, size[0], blocks)?;
    let on_device = for_gpu(q).then(|| queries.on(q.device()));
    let on = |which: usize| ffi::raw_or_null(on_device.map(|all| &all[which]));
    // SAFETY: every block that the kernel reads through these arrays was checked to lie inside the contiguous cache.
    ffi::one(|made| unsafe {
        ffi::xt_paged_attention(
            ffi::raw(q),
            ffi::raw(keys),
            ffi::raw(values),
            queries.table.as_ptr(),
            queries.table.len() as i64,
            queries.begin.as_ptr(),
            queries.length.as_ptr(),
            on(0),
            on(1),
            on(2),
            scale,
            made,
        )
    })
}
