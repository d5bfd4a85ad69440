//! Intra-op threads divided between two trainings.

use std::panic::resume_unwind;
use std::thread;

/// Runs both closures in parallel, each with half of libtorch's intra-op threads, `first` on a new thread.
///
/// On two cores, two models of a million parameters train in parallel, one core each, in three quarters of the time that they
/// take sequentially. With a single intra-op thread the closures run sequentially. Neither closure receives the other's threads
/// when that has finished: some products of libtorch depend on the number of threads in their last bit, so results would depend
/// on which closure finishes when.
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

    /// One test, because the number of threads is global to the process.
    #[test]
    fn each_closure_has_half_of_the_threads() {
        for (threads, first, second) in [(1, 1, 1), (2, 1, 1), (5, 2, 3)] {
            tch::set_num_threads(threads);
            assert_eq!(join(tch::get_num_threads, tch::get_num_threads), (first, second));
            assert_eq!(tch::get_num_threads(), threads);
        }
        // Neither closure passes the barrier unless both run at once.
        let barrier = Barrier::new(2);
        join(|| barrier.wait(), || barrier.wait());

        // The closure that runs longer keeps its number of threads.
        tch::set_num_threads(5);
        let (_, alone) = join(
            || barrier.wait(),
            || {
                barrier.wait();
                thread::sleep(std::time::Duration::from_millis(50));
                tch::get_num_threads()
            },
        );
        assert_eq!((alone, tch::get_num_threads()), (3, 5));
    }
}
