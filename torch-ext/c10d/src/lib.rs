//! Bindings to c10d, PyTorch's distributed backend: a rendezvous store, process groups, and collectives on tensors.
//!
//! With the feature `cuda`, a process group uses NCCL (between GPUs) or Gloo (between CPUs); without it, only Gloo.
#![expect(unsafe_code, reason = "calls into the C shim")]

mod ffi;

use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_ext::{TorchError, check, raw};

/// The communication backend of a process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Gloo, for tensors on the CPU.
    Gloo,
    /// NCCL, for tensors on NVIDIA GPUs, in programs built with the feature `cuda`.
    Nccl,
}

fn text(s: &str) -> Result<CString, TorchError> {
    CString::new(s).map_err(|_| TorchError::Argument(format!("`{}` contains a NUL byte", s.escape_default())))
}

fn milliseconds(t: Duration) -> i64 {
    i64::try_from(t.as_millis()).unwrap_or(i64::MAX)
}

fn made<T>(call: impl FnOnce(*mut *mut T) -> c_int) -> Result<NonNull<T>, TorchError> {
    let mut pointer = std::ptr::null_mut();
    check(call(&raw mut pointer))?;
    Ok(NonNull::new(pointer).expect("a call that succeeds leaves its result"))
}

/// A key-value store over TCP (c10d's `TCPStore`), which the ranks of a job use for rendezvous.
#[derive(Debug)]
pub struct Store(NonNull<c_void>);

// SAFETY: TCPStore locks each of its calls.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host`:`port`. With `serves`, this process hosts the store (on a free port if `port` is
    /// 0). Waiting for a value or for the server times out after `timeout`.
    ///
    /// # Errors
    /// Returns an error if no server answers within `timeout`, or if the port is in use.
    pub fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self, TorchError> {
        let host = text(host)?;
        // SAFETY: a C string that outlives the call; the result is checked.
        let store = made(|out| unsafe {
            ffi::xt_store_open(host.as_ptr(), port.into(), serves.into(), milliseconds(timeout), out)
        })?;
        Ok(Self(store))
    }

    /// Returns the port of the server.
    pub fn port(&self) -> u16 {
        // SAFETY: a live store. A port fits into 16 bits.
        unsafe { ffi::xt_store_port(self.0.as_ptr()) as u16 }
    }

    /// Opens another connection to the same store.
    ///
    /// # Errors
    /// Returns an error if the server is gone.
    pub fn again(&self) -> Result<Self, TorchError> {
        // SAFETY: a live store.
        Ok(Self(made(|out| unsafe { ffi::xt_store_clone(self.0.as_ptr(), out) })?))
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// Returns an error if the server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let key = text(key)?;
        // SAFETY: a live store, a C string, and bytes with their length.
        check(unsafe { ffi::xt_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// Returns the value of `key`, or `None` if the key is not set.
    ///
    /// # Errors
    /// Returns an error if the server is gone.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TorchError> {
        let (key, mut has) = (text(key)?, 0);
        // SAFETY: a live store and a C string.
        check(unsafe { ffi::xt_store_has(self.0.as_ptr(), key.as_ptr(), &raw mut has) })?;
        if has == 0 {
            return Ok(None);
        }
        extern "C" fn keep(into: *mut c_void, value: *const u8, length: usize) {
            if length > 0 {
                // SAFETY: `into` is the vector below; `value` holds `length` bytes for the duration of this call.
                unsafe { (*into.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(value, length)) };
            }
        }
        let mut value: Vec<u8> = Vec::new();
        // SAFETY: `keep` receives the vector it expects, which outlives the call.
        check(unsafe { ffi::xt_store_get(self.0.as_ptr(), key.as_ptr(), keep, (&raw mut value).cast()) })?;
        Ok(Some(value))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: created by `open` or `again`, freed once.
        unsafe { ffi::xt_store_free(self.0.as_ptr()) }
    }
}

/// A process group. All of its ranks must issue the same collectives in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    group: NonNull<c_void>,
    backend: Backend,
    rank: usize,
    size: usize,
}

// SAFETY: a process group locks each of its calls.
unsafe impl Send for ProcessGroup {}
// SAFETY: collectives start one at a time (`begun` in process_group.cpp); `abort` and `check` lock, and are meant to be
// called from other threads.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Joins a process group as `rank` of `size`. `name` distinguishes groups that share a store. Calls fail after
    /// `timeout`.
    ///
    /// # Errors
    /// Returns an error if not all ranks join within `timeout`, or if the backend is not available.
    pub fn open(
        store: &Store,
        name: &str,
        (rank, size): (usize, usize),
        timeout: Duration,
        backend: Backend,
    ) -> Result<Self, TorchError> {
        let (name, ms, nccl) = (text(name)?, milliseconds(timeout), c_int::from(backend == Backend::Nccl));
        let (own, all) = (rank as c_int, size as c_int);
        // SAFETY: a live store and a C string.
        let group =
            made(|out| unsafe { ffi::xt_group_open(store.0.as_ptr(), name.as_ptr(), own, all, ms, nccl, out) })?;
        Ok(Self { group, backend, rank, size })
    }

    /// Returns the backend of this group.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Aborts all pending collectives permanently. On a GPU, their kernels return and leave undefined results, so a
    /// thread that waits for the GPU continues. Gloo cannot abort; see [`Work::wait_for`]. Another thread may be inside
    /// a collective.
    ///
    /// # Errors
    /// Returns an error if NCCL reports one.
    pub fn abort(&self) -> Result<(), TorchError> {
        // SAFETY: a live group.
        check(unsafe { ffi::xt_group_abort(self.group.as_ptr()) })
    }

    /// Checks that all NCCL collectives of this group have succeeded so far. Gloo reports failures in `wait`, so a Gloo
    /// group always passes.
    ///
    /// # Errors
    /// Returns an error if a collective failed or timed out.
    pub fn check(&self) -> Result<(), TorchError> {
        match self.backend {
            Backend::Gloo => Ok(()),
            // SAFETY: a live group.
            Backend::Nccl => check(unsafe { ffi::xt_group_check(self.group.as_ptr()) }),
        }
    }

    fn begun(
        &self,
        tensors: &[&Tensor],
        call: impl FnOnce(*mut c_void, *mut *mut c_void) -> c_int,
    ) -> Result<Work, TorchError> {
        let contiguous = tensors.iter().all(|t| t.is_contiguous());
        if !contiguous {
            return Err(TorchError::Argument("collectives require contiguous tensors".into()));
        }
        let work = made(|out| call(self.group.as_ptr(), out))?;
        Ok(Work { work, _tensors: tensors.iter().map(|t| t.shallow_clone()).collect(), copies: None })
    }

    /// Reduces `tensor` across all ranks in place: to the sum, or to the elementwise maximum if `largest`.
    ///
    /// # Errors
    /// Returns an error if the collective cannot start.
    pub fn all_reduce(&self, tensor: &Tensor, largest: bool) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensor, which the work keeps.
        self.begun(&[tensor], |g, out| unsafe { ffi::xt_all_reduce(g, raw(tensor), largest.into(), out) })
    }

    /// Sums `input` over all ranks and writes this rank's shard of the sum to `output`. `input` is as long as all
    /// shards together.
    ///
    /// # Errors
    /// Returns an error if the collective cannot start.
    pub fn reduce_scatter(&self, output: &Tensor, input: &Tensor) -> Result<Work, TorchError> {
        if self.backend == Backend::Gloo {
            // c10d does the same, but returns a work object that does not support a wait with a timeout.
            if output.dim() != 1 || input.size() != [output.numel() as i64 * self.size as i64] {
                return Err(TorchError::Argument(format!(
                    "{} ranks share {:?} elements in {:?}",
                    self.size,
                    input.size(),
                    output.size()
                )));
            }
            let sum = input.copy();
            let share = sum.narrow(0, self.rank as i64 * output.size()[0], output.size()[0]);
            let mut work = self.all_reduce(&sum, false)?;
            work.copies = Some((output.shallow_clone(), share));
            return Ok(work);
        }
        // SAFETY: a live group and tensors, which the work keeps.
        self.begun(&[output, input], |g, out| unsafe { ffi::xt_reduce_scatter(g, raw(output), raw(input), out) })
    }

    /// Gathers the `input` of every rank into `output`, concatenated in rank order.
    ///
    /// # Errors
    /// Returns an error if the collective cannot start.
    pub fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensors, which the work keeps.
        self.begun(&[output, input], |g, out| unsafe { ffi::xt_all_gather(g, raw(output), raw(input), out) })
    }

    /// Broadcasts `tensor` from rank `from` to all ranks, in place.
    ///
    /// # Errors
    /// Returns an error if the collective cannot start.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensor, which the work keeps.
        self.begun(&[tensor], |g, out| unsafe { ffi::xt_broadcast(g, raw(tensor), from as c_int, out) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: created by `open`, freed once.
        unsafe { ffi::xt_group_free(self.group.as_ptr()) }
    }
}

/// A pending collective and its tensors, whose contents are defined once [`Self::wait`] has returned.
#[derive(Debug)]
#[must_use = "the tensors are not to be touched before wait()"]
pub struct Work {
    work: NonNull<c_void>,
    _tensors: Vec<Tensor>,
    /// Destination and source of a copy that runs on completion.
    copies: Option<(Tensor, Tensor)>,
}

// SAFETY: c10d's work objects are reference-counted and locked for use by several threads.
unsafe impl Send for Work {}

impl Work {
    /// Waits for completion. On a GPU, only the current stream waits.
    ///
    /// # Errors
    /// Returns an error if a rank is gone or the timeout expires.
    pub fn wait(self) -> Result<(), TorchError> {
        // SAFETY: a live work.
        check(unsafe { ffi::xt_work_wait(self.work.as_ptr()) })?;
        self.finish()
    }

    /// Waits for completion, at most `limit`, and returns whether the collective has completed. For Gloo: with NCCL, a
    /// limit blocks the host.
    ///
    /// # Errors
    /// Returns an error as [`Self::wait`] does.
    pub fn wait_for(&self, limit: Duration) -> Result<bool, TorchError> {
        let mut done = 0;
        // SAFETY: a live work.
        check(unsafe { ffi::xt_work_wait_for(self.work.as_ptr(), milliseconds(limit), &raw mut done) })?;
        if done != 0 {
            self.finish()?;
        }
        Ok(done != 0)
    }

    fn finish(&self) -> Result<(), TorchError> {
        let Some((into, from)) = &self.copies else { return Ok(()) };
        let copied = tch::no_grad(|| into.shallow_clone().f_copy_(from).map(drop));
        copied.map_err(TorchError::from)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: created by a collective, freed once.
        unsafe { ffi::xt_work_free(self.work.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_gives_back_what_was_set() {
        let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(5)).unwrap();
        let other = Store::open("127.0.0.1", store.port(), false, Duration::from_secs(5)).unwrap();
        assert_eq!(other.get("a").unwrap(), None);
        store.set("a", b"1").unwrap();
        assert_eq!(other.again().unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
    }
}
