//! All ranks of a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use c10d::{Backend, Store};
use tch::Device;
use torch_ext::TorchError;

use crate::error::DistError;
use crate::group::{Job, RankGroup};
use crate::heartbeat::Heartbeat;
use crate::rank_env::RankEnv;

/// Minimum time for connecting to the store, even if the timeout of collectives is shorter.
const CONNECT: Duration = Duration::from_secs(60);

/// All ranks of a job. Clones share the connections.
#[derive(Clone, Debug)]
pub struct World {
    env: RankEnv,
    group: RankGroup,
    /// Number of calls of [`Self::split`], from which the names of the groups are derived.
    splits: Arc<AtomicUsize>,
}

impl World {
    /// Returns a job of a single process.
    pub fn single() -> Self {
        Self { env: RankEnv::single(), group: RankGroup::single(), splits: Arc::default() }
    }

    /// Connects to the other ranks. Tensors on `device` are communicated by NCCL between GPUs and by Gloo otherwise. Each
    /// collective fails after `timeout`.
    ///
    /// # Errors
    /// [`DistError::Join`] if not all ranks join within `timeout`.
    pub fn join(env: &RankEnv, device: Device, timeout: Duration) -> Result<Self, DistError> {
        let Some(rendezvous) = &env.rendezvous else { return Ok(Self { env: env.clone(), ..Self::single() }) };
        let failed = |error: TorchError| DistError::Join {
            rank: env.rank,
            size: env.world_size,
            at: format!("{}:{}", rendezvous.host, rendezvous.port),
            message: error.to_string(),
        };
        let serves = env.rank == 0 && !rendezvous.served;
        let store = Store::open(&rendezvous.host, rendezvous.port, serves, timeout.max(CONNECT)).map_err(failed)?;
        let heartbeat = Heartbeat::start(&store, (env.rank, env.world_size), timeout).map_err(failed)?;
        let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
        let job = Arc::new(Job { store, heartbeat, timeout, backend });
        let group = RankGroup::open(&job, "everyone", (0..env.world_size).collect(), env.rank).map_err(failed)?;
        Ok(Self { env: env.clone(), group, splits: Arc::default() })
    }

    /// Returns the environment of this rank.
    pub fn env(&self) -> &RankEnv {
        &self.env
    }

    /// Returns the group of all ranks.
    pub fn world_group(&self) -> &RankGroup {
        &self.group
    }

    /// Returns this rank.
    pub fn rank(&self) -> usize {
        self.env.rank
    }

    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.env.world_size
    }

    /// Returns whether this is rank 0, which writes files and logs.
    pub fn is_rank_zero(&self) -> bool {
        self.rank() == 0
    }

    /// Returns two groups that contain this rank: its block of `inside` consecutive ranks (a node, for example), and the ranks at
    /// the same position in every block. All ranks must call this.
    ///
    /// # Errors
    /// [`DistError::Join`] if the groups cannot be opened.
    ///
    /// # Panics
    /// If `inside` does not divide the number of ranks.
    pub fn split(&self, inside: usize) -> Result<(RankGroup, RankGroup), DistError> {
        let (size, rank) = (self.size(), self.rank());
        assert!(inside > 0 && size.is_multiple_of(inside), "checked when the configuration meets the world size");
        let Some(job) = self.group.job() else { return Ok((self.group.clone(), self.group.clone())) };
        let generation = self.splits.fetch_add(1, Ordering::Relaxed);
        let first = rank / inside * inside;
        let near: Vec<usize> = (first..first + inside).collect();
        let across: Vec<usize> = (rank % inside..size).step_by(inside).collect();
        let open = |name: String, ranks: Vec<usize>| {
            RankGroup::open(job, &name, ranks, rank).map_err(|error| DistError::Join {
                rank,
                size,
                at: name,
                message: error.to_string(),
            })
        };
        Ok((
            open(format!("near/{generation}/{first}"), near)?,
            open(format!("across/{generation}/{}", rank % inside), across)?,
        ))
    }

    /// Publishes the reason why this rank fails, so that the other ranks report it.
    pub fn report_failure(&self, message: &str) {
        if let Some(job) = self.group.job() {
            job.heartbeat.report_failure(message);
        }
    }

    /// Runs `f` on rank 0, then on the first rank of every other machine, then on all other ranks. This is accelerate's
    /// `main_process_first` for file systems that machines may or may not share. Use it for work whose result is cached on disk.
    ///
    /// # Errors
    /// Any error of `f`, and an error if a rank before this one failed.
    pub fn main_process_first<T, E: From<DistError>>(
        &self,
        what: &str,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let turn = match (self.env.rank, self.env.local_rank) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        };
        for _ in 0..turn {
            self.group.barrier(what)?;
        }
        let found = f()?;
        for _ in turn..2 {
            self.group.barrier(what)?;
        }
        Ok(found)
    }
}
