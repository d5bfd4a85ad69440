//! Weights packed into the layout that the CPU kernels read, for many products with few rows.
#![expect(unsafe_code, reason = "calls into the C shim")]

use tch::{Kind, Tensor};

use crate::ops::ensure;
use crate::{TorchError, ffi};

/// A weight [out, in], fp32 or bf16, packed into panels of neighboring rows. It takes as many bytes as the weight,
/// rounded up to whole panels.
pub struct PackedWeight {
    panels: *mut ffi::Panels,
    size: [i64; 2],
    kind: Kind,
}

// SAFETY: the panels are written once, on construction, and only read afterwards; C++ keeps no thread-local state with
// them.
unsafe impl Send for PackedWeight {}
// SAFETY: as above; every function that takes them only reads.
unsafe impl Sync for PackedWeight {}

impl Drop for PackedWeight {
    fn drop(&mut self) {
        // SAFETY: created by xt_pack_weight, freed once.
        unsafe { ffi::xt_free_packed_weight(self.panels) }
    }
}

impl std::fmt::Debug for PackedWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedWeight({:?})", self.size)
    }
}

impl PackedWeight {
    /// Packs a copy of `w`, [out, in].
    ///
    /// # Errors
    /// Returns an error if `w` is not a contiguous fp32 or bf16 matrix on the CPU, or if memory cannot be allocated.
    pub fn new(w: &Tensor) -> Result<Self, TorchError> {
        ensure(w.dim() == 2, || format!("PackedWeight: the weight is {:?}, expected [out, in]", w.size()))?;
        let mut panels = std::ptr::null_mut();
        // SAFETY: a live matrix in; on success the pointer holds a new object that we own.
        ffi::check(unsafe { ffi::xt_pack_weight(ffi::raw(w), &raw mut panels) })?;
        Ok(Self { panels, size: [w.size()[0], w.size()[1]], kind: w.kind() })
    }

    /// Returns the shape, [out, in].
    pub fn size(&self) -> [i64; 2] {
        self.size
    }

    /// Returns the dtype: fp32 or bf16.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn raw(&self) -> *mut ffi::Panels {
        self.panels
    }

    /// Computes `x · wᵀ` in fp32, bit-identical to [`crate::linear_f32`]. x: [rows, in], of the weight's dtype.
    ///
    /// # Errors
    /// Returns an error if the shape or dtype of `x` does not match.
    pub fn linear_f32(&self, x: &Tensor) -> Result<Tensor, TorchError> {
        ensure(x.dim() == 2 && x.size()[1] == self.size[1] && x.kind() == self.kind, || {
            format!("PackedWeight: x is {:?} {:?}, the weight {:?} {:?}", x.kind(), x.size(), self.kind, self.size)
        })?;
        // SAFETY: a live tensor and live panels of one width in, one new tensor out.
        ffi::one(|made| unsafe { ffi::xt_packed_linear(ffi::raw(x), self.panels, made) })
    }
}
