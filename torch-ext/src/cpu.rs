//! Which instructions the kernels for the CPU use.
#![expect(unsafe_code, reason = "calls into the C shim")]

use crate::{TorchError, ffi};

/// In order; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CpuLevel {
    /// Any CPU.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
    /// Products of pairs of bf16 values.
    Avx512Bf16,
    /// Tiles of bf16 values, by libtorch.
    Amx,
}

impl CpuLevel {
    /// The level in use: the highest that is fast on this CPU, or what the environment variable `XPLORE_CPU` names
    /// (`portable`, `avx2`, `avx512`, `avx512_bf16`, `amx`). fp32 results have the same bits on every level.
    ///
    /// # Errors
    /// If `XPLORE_CPU` names nothing known, or instructions that this CPU lacks.
    pub fn in_use() -> Result<Self, TorchError> {
        let mut level = 0;
        // SAFETY: a place for one number.
        ffi::check(unsafe { ffi::xt_cpu_level(&raw mut level) })?;
        let all = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];
        Ok(all[level as usize])
    }

    /// Whether a token's bits may depend on the batch it is in: large products of bf16 matrices go to libtorch's library on a
    /// CPU with AMX. `XPLORE_CPU=avx512` keeps them here.
    pub fn batch_dependent_bf16() -> bool {
        // SAFETY: no pointers.
        unsafe { ffi::xt_library_multiplies_bf16() != 0 }
    }
}
