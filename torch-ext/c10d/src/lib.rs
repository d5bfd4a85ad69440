//! c10d, PyTorch's own distributed engine: a store where ranks meet, groups, and collectives on tensors.
//!
//! With the feature `cuda` a group may be one of NCCL, between GPUs; without, only of Gloo, between CPUs.
#![expect(unsafe_code, reason = "calls into the C shim")]

mod ffi;

use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;
use torch_ext::{TorchError, check, raw};

/// Which engine sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// For tensors on the CPU.
    Gloo,
    /// For tensors on NVIDIA GPUs, in programs built with the feature `cuda`.
    Nccl,
}

fn text(s: &str) -> Result<CString, TorchError> {
    CString::new(s).map_err(|_| TorchError(format!("`{}` holds a zero byte", s.escape_default())))
}

fn milliseconds(t: Duration) -> i64 {
    i64::try_from(t.as_millis()).unwrap_or(i64::MAX)
}

fn made<T>(call: impl FnOnce(*mut *mut T) -> c_int) -> Result<NonNull<T>, TorchError> {
    let mut pointer = std::ptr::null_mut();
    check(call(&raw mut pointer))?;
    Ok(NonNull::new(pointer).expect("a call that succeeds leaves its result"))
}

/// A key-value store over TCP (c10d's TCPStore), where the ranks of a job meet.
#[derive(Debug)]
pub struct Store(NonNull<c_void>);

// SAFETY: TCPStore locks each of its calls.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host`:`port`; with `serves`, it is opened here (at a free port if `port` is 0). Waiting for
    /// a value or for the server ends after `timeout`.
    ///
    /// # Errors
    /// If nobody serves there within `timeout`, or the port is taken.
    pub fn open(host: &str, port: u16, serves: bool, timeout: Duration) -> Result<Self, TorchError> {
        let host = text(host)?;
        // SAFETY: a C string that outlives the call; the result is checked.
        let store = made(|out| unsafe {
            ffi::xt_store_open(host.as_ptr(), port.into(), serves.into(), milliseconds(timeout), out)
        })?;
        Ok(Self(store))
    }

    /// The port it is served at.
    pub fn port(&self) -> u16 {
        // SAFETY: a live store. A port fits into 16 bits.
        unsafe { ffi::xt_store_port(self.0.as_ptr()) as u16 }
    }

    /// Another connection to the same store.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn again(&self) -> Result<Self, TorchError> {
        // SAFETY: a live store.
        Ok(Self(made(|out| unsafe { ffi::xt_store_clone(self.0.as_ptr(), out) })?))
    }

    /// Sets a value.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), TorchError> {
        let key = text(key)?;
        // SAFETY: a live store, a C string, and bytes with their length.
        check(unsafe { ffi::xt_store_set(self.0.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// A value, if it is there.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, TorchError> {
        let (key, mut has) = (text(key)?, 0);
        // SAFETY: a live store and a C string.
        check(unsafe { ffi::xt_store_has(self.0.as_ptr(), key.as_ptr(), &raw mut has) })?;
        if has == 0 {
            return Ok(None);
        }
        extern "C" fn keep(into: *mut c_void, value: *const u8, length: usize) {
            if length > 0 {
                // SAFETY: `into` is the vector below; `value` holds `length` bytes for the time of this call.
                unsafe { (*into.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(value, length)) };
            }
        }
        let mut value: Vec<u8> = Vec::new();
        // SAFETY: `keep` gets the vector it expects, which outlives the call.
        check(unsafe { ffi::xt_store_get(self.0.as_ptr(), key.as_ptr(), keep, (&raw mut value).cast()) })?;
        Ok(Some(value))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `open` or `again`, freed once.
        unsafe { ffi::xt_store_free(self.0.as_ptr()) }
    }
}

/// Ranks that send to each other. All of them must make the same calls in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    group: NonNull<c_void>,
    engine: Engine,
    rank: usize,
    size: usize,
}

// SAFETY: process groups lock each of their calls.
unsafe impl Send for ProcessGroup {}
// SAFETY: collectives begin one at a time (`begun` in process_group.cpp); `abort` and `check` lock, and are made for other threads.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Joins a group as `rank` of `size`. `name` tells groups that meet at one store apart. Calls fail after `timeout`.
    ///
    /// # Errors
    /// If not all ranks come within `timeout`, or the engine is not there.
    pub fn open(
        store: &Store,
        name: &str,
        (rank, size): (usize, usize),
        timeout: Duration,
        engine: Engine,
    ) -> Result<Self, TorchError> {
        let (name, ms, nccl) = (text(name)?, milliseconds(timeout), c_int::from(engine == Engine::Nccl));
        let (own, all) = (rank as c_int, size as c_int);
        // SAFETY: a live store and a C string.
        let group =
            made(|out| unsafe { ffi::xt_group_open(store.0.as_ptr(), name.as_ptr(), own, all, ms, nccl, out) })?;
        Ok(Self { group, engine, rank, size })
    }

    /// Which engine sends.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Ends all collectives under way, for good: on a GPU their kernels return and leave undefined results, so that a thread
    /// that waits for the GPU goes on. Gloo cannot do that; see [`Work::wait_for`]. Another thread may be in a collective.
    ///
    /// # Errors
    /// If NCCL refuses.
    pub fn abort(&self) -> Result<(), TorchError> {
        // SAFETY: a live group.
        check(unsafe { ffi::xt_group_abort(self.group.as_ptr()) })
    }

    /// Whether all of NCCL's collectives went well so far. Gloo's fail in their `wait` and pass here.
    ///
    /// # Errors
    /// If one failed or timed out.
    pub fn check(&self) -> Result<(), TorchError> {
        match self.engine {
            Engine::Gloo => Ok(()),
            // SAFETY: a live group.
            Engine::Nccl => check(unsafe { ffi::xt_group_check(self.group.as_ptr()) }),
        }
    }

    fn begun(
        &self,
        tensors: &[&Tensor],
        call: impl FnOnce(*mut c_void, *mut *mut c_void) -> c_int,
    ) -> Result<Work, TorchError> {
        let contiguous = tensors.iter().all(|t| t.is_contiguous());
        if !contiguous {
            return Err(TorchError("collectives take contiguous tensors".into()));
        }
        let work = made(|out| call(self.group.as_ptr(), out))?;
        Ok(Work { work, _tensors: tensors.iter().map(|t| t.shallow_clone()).collect(), copies: None })
    }

    /// Every rank's `tensor` becomes the sum of all, or the largest of each number.
    ///
    /// # Errors
    /// If the call cannot begin.
    pub fn all_reduce(&self, tensor: &Tensor, largest: bool) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensor, which the work keeps.
        self.begun(&[tensor], |g, out| unsafe { ffi::xt_all_reduce(g, raw(tensor), largest.into(), out) })
    }

    /// `output` becomes this rank's share of the sum of all `input`s, which are as long as all shares.
    ///
    /// # Errors
    /// If the call cannot begin.
    pub fn reduce_scatter(&self, output: &Tensor, input: &Tensor) -> Result<Work, TorchError> {
        if self.engine == Engine::Gloo {
            // c10d does the same, in a work that cannot be waited for with a limit.
            if output.dim() != 1 || input.size() != [output.numel() as i64 * self.size as i64] {
                return Err(TorchError(format!(
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

    /// `output` becomes the `input`s of all ranks, one after the other.
    ///
    /// # Errors
    /// If the call cannot begin.
    pub fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensors, which the work keeps.
        self.begun(&[output, input], |g, out| unsafe { ffi::xt_all_gather(g, raw(output), raw(input), out) })
    }

    /// Every rank's `tensor` becomes that of rank `from`.
    ///
    /// # Errors
    /// If the call cannot begin.
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<Work, TorchError> {
        // SAFETY: a live group and tensor, which the work keeps.
        self.begun(&[tensor], |g, out| unsafe { ffi::xt_broadcast(g, raw(tensor), from as c_int, out) })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by `open`, freed once.
        unsafe { ffi::xt_group_free(self.group.as_ptr()) }
    }
}

/// A collective under way, with its tensors. Their contents are defined once [`Self::wait`] has returned.
#[derive(Debug)]
#[must_use = "the tensors are not to be touched before wait()"]
pub struct Work {
    work: NonNull<c_void>,
    _tensors: Vec<Tensor>,
    /// What is copied at the end, and from where.
    copies: Option<(Tensor, Tensor)>,
}

// SAFETY: c10d's works are counted and locked for use by several threads.
unsafe impl Send for Work {}

impl Work {
    /// Waits for the end. On a GPU only the current stream does.
    ///
    /// # Errors
    /// If a rank is gone or the time is up.
    pub fn wait(self) -> Result<(), TorchError> {
        // SAFETY: a live work.
        check(unsafe { ffi::xt_work_wait(self.work.as_ptr()) })?;
        self.finish()
    }

    /// Waits for the end, at most `limit`; whether it has come. For Gloo: with NCCL a limit makes the host wait.
    ///
    /// # Errors
    /// As [`Self::wait`].
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
        copied.map_err(|error| TorchError(error.to_string()))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: made by a collective, freed once.
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
