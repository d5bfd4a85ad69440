//! Distributed training over c10d: Gloo between CPUs, NCCL between GPUs.
//!
//! - [`rank_env`]: the rank of this process, and the rendezvous.
//! - [`world`]: all ranks of a job.
//! - [`group`]: groups of ranks and their collectives.
//! - `heartbeat`: detection of ranks that are gone or stuck, so that errors name them.
//! - [`shard`]: which elements of a buffer each rank holds, and load balancing over ranks.
//! - [`launch`]: launcher of several ranks on this machine.

pub mod error;
mod fault_injection;
pub mod group;
mod heartbeat;
pub mod launch;
pub mod rank_env;
pub mod shard;
pub mod world;

pub use error::DistError;
pub use group::{PendingCollective, RankGroup};
pub use rank_env::{RankEnv, RankEnvError, Rendezvous};
pub use shard::{Shard, balanced};
pub use world::World;
