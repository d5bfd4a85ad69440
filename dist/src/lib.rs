//! Several processes that train one model, over c10d: Gloo between CPUs, NCCL between GPUs.
//!
//! - [`place`]: which rank this process is, and where the ranks meet.
//! - [`world`]: all ranks together, and groups of them; collectives, each with a name.
//! - [`watch`]: signs of life, so that a rank that is gone or stuck is named.
//! - [`share`]: which numbers of a buffer each rank holds.
//! - [`launch`]: several ranks on this machine.

mod fault;
pub mod launch;
pub mod place;
pub mod share;
mod watch;
pub mod world;

pub use place::{Master, Place, PlaceError};
pub use share::{Share, balanced};
pub use world::{DistError, Group, Pending, World};
