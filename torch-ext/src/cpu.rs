//! Selection of the instruction set that the CPU kernels use.
#![expect(unsafe_code, reason = "calls into the C shim")]

use crate::{TorchError, ffi};

/// The instruction sets of the CPU kernels, in ascending order; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// Any CPU.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// AVX-512 BF16: products of pairs of bf16 values.
    Avx512Bf16,
    /// AMX: tiles of bf16 values, computed by libtorch.
    Amx,
}

impl CpuLevel {
    /// Returns the level in use: the highest level that is fast on this CPU, or the one that the environment variable
    /// `XPLORE_CPU` names (`portable`, `avx2`, `avx512`, `avx512_bf16`, `amx`). fp32 results have the same bits on
    /// every level.
    ///
    /// # Errors
    /// Returns an error if `XPLORE_CPU` names an unknown level, or instructions that this CPU lacks.
    pub fn in_use() -> Result<Self, TorchError> {
        let mut level = 0;
        // SAFETY: a valid pointer to one integer.
        ffi::check(unsafe { ffi::xt_cpu_level(&raw mut level) })?;
        let all = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];
        Ok(all[level as usize])
    }

    /// Returns whether a token's bits may depend on the batch it is in. On a CPU with AMX, large products of bf16
    /// matrices go to libtorch's library; `XPLORE_CPU=avx512` selects this crate's kernels instead.
    pub fn batch_dependent_bf16() -> bool {
        // SAFETY: no pointers.
        unsafe { ffi::xt_library_multiplies_bf16() != 0 }
    }
}
