//! Groups of ranks and their collectives.

use std::sync::Arc;
use std::time::Duration;

use c10d::{Backend, ProcessGroup, Store};
use tch::{Device, Kind, Tensor};
use torch_ext::TorchError;

use crate::error::DistError;
use crate::heartbeat::{Heartbeat, Position};

/// Interval at which a rank that waits for a Gloo collective checks whether another rank failed.
const POLL: Duration = Duration::from_millis(500);

/// State that all groups of a job share.
#[derive(Debug)]
pub(crate) struct Job {
    pub store: Store,
    pub heartbeat: Heartbeat,
    pub timeout: Duration,
    pub backend: Backend,
}

impl Job {
    fn failed(&self, position: &Position, ranks: &[usize], error: &TorchError) -> DistError {
        let reason = self.heartbeat.diagnose(ranks).unwrap_or_else(|| error.to_string());
        self.heartbeat.fail(&reason);
        self.stopped(position, reason)
    }

    /// Returns an error if a rank of the job failed.
    fn check(&self, position: &Position) -> Result<(), DistError> {
        self.heartbeat.failure().map_or(Ok(()), |reason| Err(self.stopped(position, reason.into())))
    }

    fn stopped(&self, position: &Position, reason: String) -> DistError {
        DistError::Collective { rank: self.heartbeat.rank(), place: position.to_string(), reason }
    }
}

/// A group of ranks that contains this one. Every collective has a name, which errors report.
#[derive(Clone, Debug)]
pub struct RankGroup {
    /// The global ranks of the members, in ascending order.
    ranks: Vec<usize>,
    /// Rank of this process within the group.
    rank: usize,
    /// Absent in a group of one.
    channels: Option<Arc<Channels>>,
}

#[derive(Debug)]
struct Channels {
    job: Arc<Job>,
    /// Process group for tensors on the job's devices.
    tensors: Arc<ProcessGroup>,
    /// Process group for tensors on the CPU if `tensors` uses NCCL.
    host: Option<Arc<ProcessGroup>>,
}

impl Drop for Channels {
    fn drop(&mut self) {
        if self.job.heartbeat.failure().is_some() {
            // The destructor of a process group waits for collectives in flight, which may last until their timeout.
            std::mem::forget((Arc::clone(&self.tensors), self.host.clone()));
        }
    }
}

/// A collective in flight. Its tensors are defined after [`Self::wait`].
#[derive(Debug)]
#[must_use = "the tensors are undefined before wait()"]
pub struct PendingCollective(Option<InFlight>);

#[derive(Debug)]
struct InFlight {
    work: c10d::Work,
    backend: Backend,
    job: Arc<Job>,
    position: Position,
    ranks: Vec<usize>,
}

impl PendingCollective {
    /// Waits until the collective completes. With NCCL, only the current stream waits; a later collective reports the failure.
    ///
    /// # Errors
    /// [`DistError::Collective`], which names the rank that failed.
    pub fn wait(self) -> Result<(), DistError> {
        let Some(InFlight { work, backend, job, position, ranks }) = self.0 else { return Ok(()) };
        let failed = |error| job.failed(&position, &ranks, &error);
        match backend {
            Backend::Nccl => work.wait().map_err(failed),
            Backend::Gloo => {
                while !work.wait_for(POLL).map_err(failed)? {
                    job.check(&position)?;
                }
                Ok(())
            }
        }
    }
}

impl RankGroup {
    /// Returns a group of this process only.
    pub(crate) fn single() -> Self {
        Self { ranks: vec![0], rank: 0, channels: None }
    }

    /// Returns the shared state of the group's job; `None` in a group of one.
    pub(crate) fn job(&self) -> Option<&Arc<Job>> {
        self.channels.as_ref().map(|channels| &channels.job)
    }

    pub(crate) fn open(job: &Arc<Job>, name: &str, ranks: Vec<usize>, own: usize) -> Result<Self, TorchError> {
        let rank = ranks.iter().position(|r| *r == own).unwrap_or_default();
        if ranks.len() == 1 {
            return Ok(Self { ranks, rank, channels: None });
        }
        let open = |name: &str, backend| {
            let group =
                ProcessGroup::open(&job.store, name, (rank, ranks.len()), job.timeout, backend).map(Arc::new)?;
            job.heartbeat.watch(&group);
            Ok::<_, TorchError>(group)
        };
        let tensors = open(&format!("{name}/tensors"), job.backend)?;
        let host = match job.backend {
            Backend::Gloo => None,
            Backend::Nccl => Some(open(&format!("{name}/host"), Backend::Gloo)?),
        };
        let channels = Some(Arc::new(Channels { job: Arc::clone(job), tensors, host }));
        Ok(Self { ranks, rank, channels })
    }

    /// Returns the rank of this process within the group.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of ranks in the group.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    fn begin(
        &self,
        what: &str,
        on_host: bool,
        call: impl FnOnce(&ProcessGroup) -> Result<c10d::Work, TorchError>,
    ) -> Result<PendingCollective, DistError> {
        let Some(channels) = &self.channels else { return Ok(PendingCollective(None)) };
        let job = &channels.job;
        let position = job.heartbeat.enter(what);
        job.check(&position)?;
        let group = channels.host.as_ref().filter(|_| on_host).unwrap_or(&channels.tensors);
        let work = channels.tensors.check().and_then(|()| call(group));
        let work = work.map_err(|error| job.failed(&position, &self.ranks, &error))?;
        let (job, ranks) = (Arc::clone(job), self.ranks.clone());
        Ok(PendingCollective(Some(InFlight { work, backend: group.backend(), job, position, ranks })))
    }

    /// Replaces `tensor` with its sum over the ranks.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn all_reduce(&self, what: &str, tensor: &Tensor) -> Result<PendingCollective, DistError> {
        self.begin(what, tensor.device() == Device::Cpu, |group| group.all_reduce(tensor, false))
    }

    /// Writes this rank's shard of the sum of all `input`s to `output`. Shapes: `input` `[n · ranks]`, `output` `[n]`.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn reduce_scatter(&self, what: &str, output: &Tensor, input: &Tensor) -> Result<PendingCollective, DistError> {
        if self.channels.is_none() {
            tch::no_grad(|| output.shallow_clone().copy_(input));
        }
        self.begin(what, input.device() == Device::Cpu, |group| group.reduce_scatter(output, input))
    }

    /// Writes the concatenation of all ranks' `input`s, in the order of ranks, to `output`. Shapes: `input` `[n]`, `output`
    /// `[n · ranks]`.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn all_gather(&self, what: &str, output: &Tensor, input: &Tensor) -> Result<PendingCollective, DistError> {
        if self.channels.is_none() {
            tch::no_grad(|| output.shallow_clone().copy_(input));
        }
        self.begin(what, input.device() == Device::Cpu, |group| group.all_gather(output, input))
    }

    /// Replaces each value with its sum over the ranks.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn all_reduce_scalars(&self, what: &str, numbers: &mut [f64]) -> Result<(), DistError> {
        self.reduce(what, numbers, false)
    }

    /// Replaces each value with its maximum over the ranks.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn all_reduce_max(&self, what: &str, numbers: &mut [f64]) -> Result<(), DistError> {
        self.reduce(what, numbers, true)
    }

    fn reduce(&self, what: &str, numbers: &mut [f64], largest: bool) -> Result<(), DistError> {
        if self.channels.is_none() || numbers.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(numbers);
        self.begin(what, true, |group| group.all_reduce(&tensor, largest))?.wait()?;
        tensor.copy_data(numbers, numbers.len());
        Ok(())
    }

    /// Waits until all ranks of the group have called it.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn barrier(&self, what: &str) -> Result<(), DistError> {
        self.all_reduce_scalars(what, &mut [0.0])
    }

    /// Returns the bytes of the group's first rank on every rank; the bytes of the other ranks are ignored.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn broadcast(&self, what: &str, own: &[u8]) -> Result<Vec<u8>, DistError> {
        if self.channels.is_none() {
            return Ok(own.to_vec());
        }
        let mut length = [if self.rank == 0 { own.len() as f64 } else { 0.0 }];
        self.all_reduce_scalars(what, &mut length)?;
        let length = length[0] as usize;
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = if self.rank == 0 { own.to_vec() } else { vec![0; length] };
        let tensor = Tensor::from_slice(&bytes);
        self.begin(what, true, |group| group.broadcast(&tensor, 0))?.wait()?;
        tensor.copy_data(&mut bytes, length);
        Ok(bytes)
    }

    /// Returns the bytes of every rank, in the order of ranks.
    ///
    /// # Errors
    /// See [`PendingCollective::wait`].
    pub fn all_gather_bytes(&self, what: &str, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        if self.channels.is_none() {
            return Ok(vec![own.to_vec()]);
        }
        let mut lengths = vec![0.0; self.size()];
        lengths[self.rank] = own.len() as f64;
        self.all_reduce_scalars(what, &mut lengths)?;
        let longest = lengths.iter().fold(0.0_f64, |a, b| a.max(*b)) as usize;
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let mut padded = own.to_vec();
        padded.resize(longest, 0);
        let input = Tensor::from_slice(&padded);
        let output = Tensor::zeros([(longest * self.size()) as i64], (Kind::Uint8, Device::Cpu));
        self.begin(what, true, |group| group.all_gather(&output, &input))?.wait()?;
        let mut all = vec![0_u8; longest * self.size()];
        output.copy_data(&mut all, longest * self.size());
        Ok(all.chunks(longest).zip(&lengths).map(|(bytes, length)| bytes[..*length as usize].to_vec()).collect())
    }

    /// Checks that all ranks hold the same bytes.
    ///
    /// # Errors
    /// [`DistError::Diverged`], which names the ranks that differ from the majority.
    pub fn assert_same_on_all_ranks(&self, what: &str, own: &[u8]) -> Result<(), DistError> {
        let all = self.all_gather_bytes(what, own)?;
        let most = all.iter().max_by_key(|bytes| all.iter().filter(|b| b == bytes).count());
        let differing: Vec<String> = all
            .iter()
            .zip(&self.ranks)
            .filter(|(bytes, _)| Some(*bytes) != most)
            .map(|(bytes, rank)| format!("rank {rank} has {}", String::from_utf8_lossy(bytes)))
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        let most = most.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
        Err(DistError::Diverged { what: what.into(), detail: format!("{}, the others {most}", differing.join(", ")) })
    }
}
