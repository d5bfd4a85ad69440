//! Threads, device, ranks and stop flag of a process.

use std::sync::atomic::Ordering;

use configs::{Device, ParallelConfig};
use trainer::{ParallelContext, start};

use crate::error::Error;

/// Initializes a single process with `threads` CPU threads (0: all cores).
///
/// ```
/// use xplore::runtime;
///
/// runtime::init(2)?;
/// assert!(!runtime::stop_requested());
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error of kind [`crate::ErrorKind::Environment`] if several processes were started (WORLD_SIZE), or libtorch cannot be
/// used.
pub fn init(threads: usize) -> Result<(), Error> {
    Ok(start::prepare_process(threads)?)
}

/// Initializes this process as one rank of a training job, from the environment variables of torchrun, Slurm or `xplore launch`.
/// Without them, returns the context of a single process.
///
/// ```
/// use xplore::{configs, runtime};
///
/// let context = runtime::init_distributed(0, configs::Device::Cpu, &configs::ParallelConfig::default())?;
/// assert!(context.world.is_rank_zero());
/// # Ok::<(), xplore::Error>(())
/// ```
///
/// # Errors
/// Returns an error of kind [`crate::ErrorKind::Environment`] if the ranks cannot connect to each other, or if `parallel` does not
/// fit the number of ranks.
pub fn init_distributed(threads: usize, device: Device, parallel: &ParallelConfig) -> Result<ParallelContext, Error> {
    Ok(start::init_distributed(threads, device, parallel)?)
}

/// Requests training loops to finish the current step, write a checkpoint and stop. Returns whether a stop was requested before.
pub fn request_stop() -> bool {
    trainer::run::STOP.swap(true, Ordering::Relaxed)
}

/// Returns whether a stop was requested.
pub fn stop_requested() -> bool {
    trainer::run::STOP.load(Ordering::Relaxed)
}
