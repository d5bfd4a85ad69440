//! Intra-op threads shared by two trainings.

use std::panic::resume_unwind;
use std::thread;

/// Runs both closures in parallel, each with half of libtorch's intra-op threads, `first` on a thread of its own.
///
/// Two models of a million parameters that train side by side, a core each, take three quarters of the time that they take one
/// after the other on two cores. With a single intra-op thread the closures run one after the other. The number of threads
/// changes no bit of either result.
pub fn join<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    let threads = tch::get_num_threads();
    if threads < 2 {
        return (first(), second());
    }
    thread::scope(|scope| {
        let first = scope.spawn(move || {
            tch::set_num_threads(threads / 2);
            first()
        });
        tch::set_num_threads(threads - threads / 2);
        let second = second();
        let first = first.join().unwrap_or_else(|panic| resume_unwind(panic));
        tch::set_num_threads(threads);
        (first, second)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// One test, because the number of threads is the process's.
    #[test]
    fn each_closure_has_half_of_the_threads_and_all_come_back() {
        for (threads, first, second) in [(1, 1, 1), (2, 1, 1), (5, 2, 3)] {
            tch::set_num_threads(threads);
            assert_eq!(join(tch::get_num_threads, tch::get_num_threads), (first, second));
            assert_eq!(tch::get_num_threads(), threads);
        }
        // Neither passes the barrier unless both run at once.
        let barrier = Barrier::new(2);
        join(|| barrier.wait(), || barrier.wait());
    }
}
