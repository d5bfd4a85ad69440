//! Intra-op threads shared by two trainings.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

thread_local! {
    /// Intra-op threads released by the closure that runs beside this thread's.
    static FREED: RefCell<Option<Arc<AtomicI32>>> = const { RefCell::new(None) };
}

/// Runs both closures in parallel, each with half of libtorch's intra-op threads, `first` on a new thread. The closure that
/// runs longer takes the other's threads when it calls [`take_freed`], as every training update does.
///
/// On two cores, two models of a million parameters train in parallel, one core each, in three quarters of the time that they
/// take sequentially. With a single intra-op thread the closures run sequentially. The number of threads changes no bit of
/// either result.
pub fn join<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    let threads = tch::get_num_threads();
    if threads < 2 {
        return (first(), second());
    }
    let freed = Arc::new(AtomicI32::new(0));
    let others = Arc::clone(&freed);
    thread::scope(|scope| {
        let first = scope.spawn(move || with_threads(threads / 2, others, first));
        let second = with_threads(threads - threads / 2, freed, second);
        let first = first.join().unwrap_or_else(|panic| resume_unwind(panic));
        tch::set_num_threads(threads);
        (first, second)
    })
}

fn with_threads<R>(threads: i32, freed: Arc<AtomicI32>, f: impl FnOnce() -> R) -> R {
    tch::set_num_threads(threads);
    let outer = FREED.replace(Some(Arc::clone(&freed)));
    let result = f();
    FREED.set(outer);
    freed.fetch_add(tch::get_num_threads(), Ordering::Relaxed);
    result
}

/// Adds the threads of the other closure under [`join`] to this thread's intra-op threads, if that closure has finished.
pub fn take_freed() {
    let freed = FREED.with_borrow(|freed| freed.as_ref().map_or(0, |freed| freed.swap(0, Ordering::Relaxed)));
    if freed > 0 {
        tch::set_num_threads(tch::get_num_threads() + freed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use super::*;

    /// One test, because the number of threads is global to the process.
    #[test]
    fn each_closure_has_half_of_the_threads_and_then_those_of_the_other() {
        for (threads, first, second) in [(1, 1, 1), (2, 1, 1), (5, 2, 3)] {
            tch::set_num_threads(threads);
            assert_eq!(join(tch::get_num_threads, tch::get_num_threads), (first, second));
            assert_eq!(tch::get_num_threads(), threads);
        }
        // Neither closure passes the barrier unless both run at once.
        let barrier = Barrier::new(2);
        join(|| barrier.wait(), || barrier.wait());

        let until_alone = || {
            while tch::get_num_threads() < 5 {
                thread::sleep(Duration::from_millis(1));
                take_freed();
            }
        };
        tch::set_num_threads(5);
        join(
            || barrier.wait(),
            || {
                barrier.wait();
                until_alone();
            },
        );
        join(
            || {
                barrier.wait();
                until_alone();
            },
            || barrier.wait(),
        );
        assert_eq!(tch::get_num_threads(), 5);
        take_freed();
        assert_eq!(tch::get_num_threads(), 5, "nothing is free outside");
    }
}
