//! Parallel loops on libtorch's thread pool. A second pool would compete with it: libtorch's threads spin while they
//! wait for work, so where they fill all cores, other threads get half a core each.
#![expect(unsafe_code, reason = "a callback from the C shim")]

use std::ffi::c_void;
use std::sync::OnceLock;

use crate::ffi;

/// Computes `f(0)` to `f(n - 1)` on libtorch's threads and returns the results in order.
pub fn each<R: Send + Sync>(n: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let results: Vec<OnceLock<R>> = (0..n).map(|_| OnceLock::new()).collect();
    let one = |i: usize| {
        // No other thread sets this element, so it is empty.
        let _ = results[i].set(f(i));
    };
    call(n, &one);
    results.into_iter().map(|place| place.into_inner().expect("every index was visited")).collect()
}

fn call<F: Fn(usize) + Sync>(n: usize, f: &F) {
    extern "C" fn visit<F: Fn(usize) + Sync>(data: *mut c_void, i: i64) {
        // SAFETY: `data` is the `&F` below, alive until all calls have returned, and F may be shared between threads. A
        // panic cannot leave an `extern "C"` function: it aborts the process.
        let f = unsafe { &*data.cast_const().cast::<F>() };
        f(i as usize);
    }
    // SAFETY: `visit::<F>` receives the `&F` that it expects.
    unsafe { ffi::xt_each(n as i64, visit::<F>, std::ptr::from_ref(f).cast_mut().cast()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_index_is_visited_once_and_in_its_place() {
        let seen = super::each(1000, |i| i * i);
        assert_eq!(seen, (0..1000).map(|i| i * i).collect::<Vec<_>>());
        assert!(super::each(0, |i| i).is_empty());
    }
}
