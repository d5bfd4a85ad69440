//! Memory seen as plain numbers: tensors in place, files mapped.
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
    /// If it cannot be opened. A file that another process shortens while it is mapped ends this process: do not
    /// overwrite weights in place while they load (checkpoints here appear by rename).
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process; see above for files changed underneath.
        Ok(Self(unsafe { memmap2::Mmap::map(&file)? }))
    }

    /// Says that these bytes will not be read again soon: their pages no longer count as this process's memory.
    pub fn release(&self, bytes: Range<usize>) {
        const PAGE: usize = 4096;
        let begin = bytes.start.next_multiple_of(PAGE);
        let end = bytes.end.min(self.0.len()) / PAGE * PAGE;
        if begin < end {
            // SAFETY: the mapping is read-only and backed by a file, so that a page read again has the same contents.
            // Advice that the system does not take changes nothing.
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

/// These numbers as a tensor on `device`. Nothing waits for a GPU: the copy is queued behind what was asked of it before.
pub fn upload<T: Element>(values: &[T], device: Device) -> Tensor {
    let here = Tensor::from_slice(values);
    // The source is pageable memory, which the driver has copied when the call returns.
    here.to_device_(device, here.kind(), true, false)
}

/// The most memory that libtorch has taken from a GPU at once, bytes; `None` of a CPU.
pub fn device_peak_bytes(device: Device) -> Option<u64> {
    let Device::Cuda(ordinal) = device else { return None };
    let mut bytes = 0;
    // SAFETY: one number is written.
    ffi::check(unsafe { ffi::xt_device_peak(i32::try_from(ordinal).ok()?, &raw mut bytes) }).ok()?;
    u64::try_from(bytes).ok()
}

/// The numbers of a contiguous fp32 tensor on the CPU, in place.
///
/// # Errors
/// If it is none.
pub fn floats(tensor: &Tensor) -> Result<&[f32], TorchError> {
    ensure(tensor.kind() == Kind::Float, || format!("floats: {tensor:?} is not fp32"))?;
    let bytes = bytes(tensor)?;
    // SAFETY: libtorch aligns storage to 64 bytes and a view of fp32 begins at a whole number; 4 bytes a number.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<f32>(), tensor.numel()) })
}

/// The bytes of a contiguous tensor on the CPU, in place.
///
/// # Errors
/// If it is none.
pub fn bytes(tensor: &Tensor) -> Result<&[u8], TorchError> {
    ensure(tensor.is_contiguous() && tensor.device() == Device::Cpu, || {
        format!("bytes: {tensor:?} is not contiguous or not on the CPU")
    })?;
    if tensor.numel() == 0 {
        return Ok(&[]);
    }
    let length = tensor.numel() * tensor.kind().elt_size_in_bytes();
    // SAFETY: the tensor keeps its storage alive, which holds `length` bytes from data_ptr on. Other views of the storage
    // could write to it meanwhile; callers pass a tensor that nothing else changes.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) })
}

/// Lets the memory of a tensor go; the tensor, and all that share its memory, stay, and must not be read before
/// [`restore_memory`]: their address is null, so a read ends the process at once and returns nothing wrong.
///
/// # Errors
/// If libtorch fails.
pub fn release_memory(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: a live tensor. Whoever lets its memory go gathers it before use (`lm::Spread`), as the contract says.
    ffi::check(unsafe { ffi::xt_release_memory(ffi::raw(tensor)) })
}

/// Gives a tensor that lost its memory new memory of undefined contents; one that has memory keeps it.
///
/// # Errors
/// If memory does not suffice.
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
