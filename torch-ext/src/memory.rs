//! Raw memory access: tensors viewed in place, and memory-mapped files.
#![expect(
    unsafe_code,
    reason = "views of memory that others own, memory let go, and advice to the system about a mapping"
)]

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::ops::ensure;
use crate::{TorchError, ffi};

/// A file mapped into memory for reading.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened. If another process truncates the file while it is mapped, this
    /// process crashes: do not overwrite weights in place while they load (checkpoints here appear by rename).
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to this process; see above for files that change underneath.
        Ok(Self(unsafe { memmap2::Mmap::map(&file)? }))
    }

    /// Releases the pages of these bytes, which are not expected to be read again soon: they no longer count toward
    /// this process's memory.
    pub fn release(&self, bytes: Range<usize>) {
        const PAGE: usize = 4096;
        let begin = bytes.start.next_multiple_of(PAGE);
        let end = bytes.end.min(self.0.len()) / PAGE * PAGE;
        if begin < end {
            // SAFETY: the mapping is read-only and backed by a file, so a page that is read again has the same
            // contents. If the system ignores the advice, nothing changes.
            let _ = unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, begin, end - begin) };
        }
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Copies `values` to a new tensor on `device`. Does not wait for a GPU: the copy is queued behind earlier work.
pub fn upload<T: Element>(values: &[T], device: Device) -> Tensor {
    let here = Tensor::from_slice(values);
    // The source is pageable memory, which the driver has copied by the time the call returns.
    here.to_device_(device, here.kind(), true, false)
}

/// Returns the peak memory that libtorch has reserved on a GPU, in bytes; `None` for the CPU.
pub fn device_peak_bytes(device: Device) -> Option<u64> {
    let Device::Cuda(ordinal) = device else { return None };
    let mut bytes = 0;
    // SAFETY: writes one integer.
    ffi::check(unsafe { ffi::xt_device_peak(i32::try_from(ordinal).ok()?, &raw mut bytes) }).ok()?;
    u64::try_from(bytes).ok()
}

/// Returns the elements of a contiguous fp32 tensor on the CPU, without a copy.
///
/// # Errors
/// Returns an error if `tensor` is not contiguous, not fp32 or not on the CPU.
pub fn floats(tensor: &Tensor) -> Result<&[f32], TorchError> {
    ensure(tensor.kind() == Kind::Float, || format!("floats: {tensor:?} is not fp32"))?;
    let bytes = bytes(tensor)?;
    // SAFETY: libtorch aligns storage to 64 bytes and an fp32 view begins at a whole element; 4 bytes an element.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), tensor.numel()) })
}

/// Returns the bytes of a contiguous tensor on the CPU, without a copy.
///
/// # Errors
/// Returns an error if `tensor` is not contiguous or not on the CPU.
pub fn bytes(tensor: &Tensor) -> Result<&[u8], TorchError> {
    ensure(tensor.is_contiguous() && tensor.device() == Device::Cpu, || {
        format!("bytes: {tensor:?} is not contiguous or not on the CPU")
    })?;
    if tensor.numel() == 0 {
        return Ok(&[]);
    }
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    // SAFETY: the tensor keeps its storage alive, which holds `length` bytes from data_ptr on. Other views of the
    // storage could write to it in the meantime; callers pass a tensor that nothing else changes.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) })
}

/// Frees the memory of a tensor. The tensor and all views of its storage stay valid objects, but must not be read
/// before [`restore_memory`]: their address is null, so a read crashes the process instead of returning wrong data.
///
/// # Errors
/// Returns an error if libtorch reports one.
pub fn release_memory(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: a live tensor. A caller that frees the memory unshards it before use (`lm::ShardedStorage`), as the
    // contract requires.
    ffi::check(unsafe { ffi::xt_release_memory(ffi::raw(tensor)) })
}

/// Allocates new memory with undefined contents for a tensor whose memory was freed. A tensor that has memory keeps it.
///
/// # Errors
/// Returns an error if memory cannot be allocated.
pub fn restore_memory(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: a live tensor.
    ffi::check(unsafe { ffi::xt_restore_memory(ffi::raw(tensor)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_survive_the_loss_of_their_memory() {
        let whole = Tensor::ones([6], (Kind::Float, Device::Cpu));
        let view = whole.narrow(0, 2, 2);
        release_memory(&whole).unwrap();
        let later = whole.narrow(0, 4, 2);
        restore_memory(&whole).unwrap();
        let _ = whole.shallow_clone().fill_(3.0);
        assert_eq!(Vec::<f32>::try_from(Tensor::cat(&[&view, &later], 0)).unwrap(), [3.0; 4]);
    }
}
