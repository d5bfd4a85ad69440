//! All ranks of a job, groups of them, and what they tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use c10d::{Engine, ProcessGroup, Store, Work};
use tch::{Device, Kind, Tensor};
use torch_ext::TorchError;

use crate::place::Place;
use crate::watch::{Position, Watch, told};

/// The least time there is to connect to the store.
const CONNECT: Duration = Duration::from_secs(60);

/// How often a rank that waits looks whether the others are still there.
const LOOK_UP: Duration = Duration::from_millis(500);

/// Why ranks could not work together.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DistError {
    /// The ranks did not find each other.
    #[error(
        "rank {rank} of {size} could not join the others at {at}: {message}; all ranks must start within the time-out \
             (parallel.timeout_seconds) and reach that address"
    )]
    Join {
        /// This rank.
        rank: usize,
        /// Ranks in all.
        size: usize,
        /// The store.
        at: String,
        /// What the engine said.
        message: String,
    },
    /// A collective failed.
    #[error(
        "rank {rank} gives up in {place}: {reason}. The newest complete checkpoint can be gone on from with --resume"
    )]
    Collective {
        /// This rank.
        rank: usize,
        /// Which collective.
        place: String,
        /// Who is to blame, or what the engine said.
        reason: String,
    },
    /// Ranks that should have come to the same result did not.
    #[error("the ranks have come apart at {what}: {detail}; do all machines run the same program on the same files?")]
    Apart {
        /// What was compared.
        what: String,
        /// Who has what.
        detail: String,
    },
}

/// What the ranks of a job have in common.
#[derive(Debug)]
struct Net {
    store: Store,
    watch: Watch,
    timeout: Duration,
    engine: Engine,
}

/// Some ranks of a job, this one among them. Every collective has a name, which a failure tells.
#[derive(Clone, Debug)]
pub struct Group {
    /// The ranks in it, ascending, counted over the whole job.
    ranks: Vec<usize>,
    /// This process's place among them.
    rank: usize,
    /// Absent in a group of one.
    sending: Option<Arc<Sending>>,
}

#[derive(Debug)]
struct Sending {
    net: Arc<Net>,
    /// Of the devices' tensors.
    tensors: Arc<ProcessGroup>,
    /// Of tensors on the CPU, where `tensors` sends between GPUs.
    host: Option<Arc<ProcessGroup>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.net.watch.lost().is_some() {
            // A group waits at its end for the collectives under way, which here may last until their time-out.
            std::mem::forget((Arc::clone(&self.tensors), self.host.clone()));
        }
    }
}

/// A collective under way; its tensors are defined after [`Self::wait`].
#[derive(Debug)]
#[must_use = "the tensors are not to be touched before wait()"]
pub struct Pending(Option<UnderWay>);

#[derive(Debug)]
struct UnderWay {
    work: Work,
    engine: Engine,
    net: Arc<Net>,
    position: Position,
    ranks: Vec<usize>,
}

impl Pending {
    /// Waits for the end. Between GPUs only the current stream does: what fails there is told by a later collective.
    ///
    /// # Errors
    /// [`DistError::Collective`], naming who is gone.
    pub fn wait(self) -> Result<(), DistError> {
        let Some(UnderWay { work, engine, net, position, ranks }) = self.0 else { return Ok(()) };
        let failed = |error| net.failed(&position, &ranks, &error);
        match engine {
            Engine::Nccl => work.wait().map_err(failed),
            Engine::Gloo => {
                while !work.wait_for(LOOK_UP).map_err(failed)? {
                    net.alive(&position)?;
                }
                Ok(())
            }
        }
    }
}

impl Net {
    fn failed(&self, position: &Position, ranks: &[usize], error: &TorchError) -> DistError {
        let reason = self.watch.explain(ranks).unwrap_or_else(|| error.to_string());
        self.watch.lose(&reason);
        DistError::Collective { rank: self.watch.rank(), place: told(position), reason }
    }

    /// Fails if a rank is gone.
    fn alive(&self, position: &Position) -> Result<(), DistError> {
        self.watch.lost().map_or(Ok(()), |reason| {
            Err(DistError::Collective { rank: self.watch.rank(), place: told(position), reason: reason.into() })
        })
    }
}

/// All ranks of a job.
#[derive(Clone, Debug)]
pub struct World {
    place: Place,
    everyone: Group,
    groups: Arc<AtomicUsize>,
}

impl World {
    /// A job of one process.
    pub fn alone() -> Self {
        let everyone = Group { ranks: vec![0], rank: 0, sending: None };
        Self { place: Place::alone(), everyone, groups: Arc::default() }
    }

    /// Meets the other ranks. Tensors on `device` will be sent: between GPUs by NCCL, otherwise by Gloo. Each collective
    /// fails after `timeout`.
    ///
    /// # Errors
    /// [`DistError::Join`] if not all ranks come within `timeout`.
    pub fn join(place: &Place, device: Device, timeout: Duration) -> Result<Self, DistError> {
        let Some(master) = &place.master else { return Ok(Self { place: place.clone(), ..Self::alone() }) };
        let failed = |error: TorchError| DistError::Join {
            rank: place.rank,
            size: place.world_size,
            at: format!("{}:{}", master.host, master.port),
            message: error.to_string(),
        };
        let serves = place.rank == 0 && !master.served;
        // However short a collective may take: connecting, which is tried again by the second, has its time.
        let store = Store::open(&master.host, master.port, serves, timeout.max(CONNECT)).map_err(failed)?;
        let watch = Watch::begin(&store, (place.rank, place.world_size), timeout).map_err(failed)?;
        let engine = if device.is_cuda() { Engine::Nccl } else { Engine::Gloo };
        let net = Arc::new(Net { store, watch, timeout, engine });
        let everyone = Group::open(&net, "everyone", (0..place.world_size).collect(), place.rank).map_err(failed)?;
        Ok(Self { place: place.clone(), everyone, groups: Arc::default() })
    }

    /// Where this process stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// All ranks.
    pub fn everyone(&self) -> &Group {
        &self.everyone
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.place.rank
    }

    /// Ranks in all.
    pub fn size(&self) -> usize {
        self.place.world_size
    }

    /// Whether this is the rank that writes and shows.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Two groups this rank belongs to: the `inside` neighbouring ranks (a node, say) around it, and those with the same
    /// place in each such neighbourhood. All ranks must call this.
    ///
    /// # Errors
    /// [`DistError::Join`] if the groups do not come about. `inside` must divide the number of ranks.
    pub fn split(&self, inside: usize) -> Result<(Group, Group), DistError> {
        let (size, rank) = (self.size(), self.rank());
        assert!(inside > 0 && size.is_multiple_of(inside), "checked where the configuration meets the world");
        let Some(sending) = &self.everyone.sending else { return Ok((self.everyone.clone(), self.everyone.clone())) };
        let generation = self.groups.fetch_add(1, Ordering::Relaxed);
        let first = rank / inside * inside;
        let near: Vec<usize> = (first..first + inside).collect();
        let across: Vec<usize> = (rank % inside..size).step_by(inside).collect();
        let open = |name: String, ranks: Vec<usize>| {
            Group::open(&sending.net, &name, ranks, rank).map_err(|error| DistError::Join {
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

    /// Leaves word of why this rank ends, for the others to tell.
    pub fn last_words(&self, words: &str) {
        if let Some(sending) = &self.everyone.sending {
            sending.net.watch.last_words(words);
        }
    }

    /// `f`, first on rank 0 alone, then on the first rank of every other machine, then on all others: for work whose result
    /// lies in a cache afterwards, on a file system that machines share or not.
    ///
    /// # Errors
    /// Those of `f`, and if a rank before this one failed.
    pub fn first_here<T, E: From<DistError>>(&self, what: &str, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let turn = match (self.place.rank, self.place.local_rank) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        };
        for _ in 0..turn {
            self.everyone.barrier(what)?;
        }
        let found = f()?;
        for _ in turn..2 {
            self.everyone.barrier(what)?;
        }
        Ok(found)
    }
}

impl Group {
    fn open(net: &Arc<Net>, name: &str, ranks: Vec<usize>, own: usize) -> Result<Self, TorchError> {
        let rank = ranks.iter().position(|r| *r == own).unwrap_or_default();
        if ranks.len() == 1 {
            return Ok(Self { ranks, rank, sending: None });
        }
        let open = |name: &str, engine| {
            let group = ProcessGroup::open(&net.store, name, (rank, ranks.len()), net.timeout, engine).map(Arc::new)?;
            net.watch.guards(&group);
            Ok::<_, TorchError>(group)
        };
        let tensors = open(&format!("{name}/tensors"), net.engine)?;
        let host = match net.engine {
            Engine::Gloo => None,
            Engine::Nccl => Some(open(&format!("{name}/host"), Engine::Gloo)?),
        };
        let sending = Some(Arc::new(Sending { net: Arc::clone(net), tensors, host }));
        Ok(Self { ranks, rank, sending })
    }

    /// This process's place among the group's ranks.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks in it.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    fn begin(
        &self,
        what: &str,
        on_host: bool,
        call: impl FnOnce(&ProcessGroup) -> Result<Work, TorchError>,
    ) -> Result<Pending, DistError> {
        let Some(sending) = &self.sending else { return Ok(Pending(None)) };
        let net = &sending.net;
        let position = net.watch.enters(what);
        net.alive(&position)?;
        let group = sending.host.as_ref().filter(|_| on_host).unwrap_or(&sending.tensors);
        let work = sending.tensors.check().and_then(|()| call(group));
        let work = work.map_err(|error| net.failed(&position, &self.ranks, &error))?;
        let (net, ranks) = (Arc::clone(net), self.ranks.clone());
        Ok(Pending(Some(UnderWay { work, engine: group.engine(), net, position, ranks })))
    }

    /// `tensor` becomes the sum over all ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn sum(&self, what: &str, tensor: &Tensor) -> Result<Pending, DistError> {
        self.begin(what, tensor.device() == Device::Cpu, |group| group.all_reduce(tensor, false))
    }

    /// `output` becomes this rank's share of the sum of all `input`s; `input` is as long as all shares together.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn sum_shares(&self, what: &str, output: &Tensor, input: &Tensor) -> Result<Pending, DistError> {
        if self.sending.is_none() {
            tch::no_grad(|| output.shallow_clone().copy_(input));
        }
        self.begin(what, input.device() == Device::Cpu, |group| group.reduce_scatter(output, input))
    }

    /// `output` becomes all ranks' `input`s, one after the other.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn all_shares(&self, what: &str, output: &Tensor, input: &Tensor) -> Result<Pending, DistError> {
        if self.sending.is_none() {
            tch::no_grad(|| output.shallow_clone().copy_(input));
        }
        self.begin(what, input.device() == Device::Cpu, |group| group.all_gather(output, input))
    }

    /// Sums of some numbers over all ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn sums(&self, what: &str, numbers: &mut [f64]) -> Result<(), DistError> {
        self.reduce(what, numbers, false)
    }

    /// The largest of some numbers over all ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn largest(&self, what: &str, numbers: &mut [f64]) -> Result<(), DistError> {
        self.reduce(what, numbers, true)
    }

    fn reduce(&self, what: &str, numbers: &mut [f64], largest: bool) -> Result<(), DistError> {
        if self.sending.is_none() || numbers.is_empty() {
            return Ok(());
        }
        let tensor = Tensor::from_slice(numbers);
        self.begin(what, true, |group| group.all_reduce(&tensor, largest))?.wait()?;
        tensor.copy_data(numbers, numbers.len());
        Ok(())
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn barrier(&self, what: &str) -> Result<(), DistError> {
        self.sums(what, &mut [0.0])
    }

    /// The bytes of the group's first rank, on all of them; what the others give does not matter.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn from_first(&self, what: &str, own: &[u8]) -> Result<Vec<u8>, DistError> {
        if self.sending.is_none() {
            return Ok(own.to_vec());
        }
        let mut length = [if self.rank == 0 { own.len() as f64 } else { 0.0 }];
        self.sums(what, &mut length)?;
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

    /// Everybody's bytes, by rank.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn gather(&self, what: &str, own: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        if self.sending.is_none() {
            return Ok(vec![own.to_vec()]);
        }
        let mut lengths = vec![0.0; self.size()];
        lengths[self.rank] = own.len() as f64;
        self.sums(what, &mut lengths)?;
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

    /// Makes sure that all ranks hold the same bytes.
    ///
    /// # Errors
    /// [`DistError::Apart`] naming those that differ from most.
    pub fn agree(&self, what: &str, own: &[u8]) -> Result<(), DistError> {
        let all = self.gather(what, own)?;
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
        Err(DistError::Apart { what: what.into(), detail: format!("{}, the others {most}", differing.join(", ")) })
    }
}
