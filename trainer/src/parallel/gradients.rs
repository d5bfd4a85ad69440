//! Gradients of which each rank keeps a share: those of a part are summed over the ranks as soon as a pass has them, while
//! the next part's are made.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dist::{Group, Pending};
use lm::params::Part;
use lm::{LmError, Spread};
use tch::{Device, Kind, Tensor};

use super::shards::Shards;
use super::team::lost;

/// Sums on their way at once; each holds a part's gradients.
const ON_THE_WAY: usize = 1;

/// See [`Spread`]; clones share everything.
#[derive(Clone, Debug)]
pub struct SharedGradients(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Shards,
    group: Group,
    moving: Mutex<Moving>,
}

#[derive(Debug)]
struct Moving {
    /// This rank's share of the sums, over all passes.
    sums: Tensor,
    places: BTreeMap<Part, Place>,
    on_the_way: VecDeque<(Part, Tensor, Pending)>,
}

#[derive(Debug)]
struct Place {
    whole: Tensor,
    here: bool,
}

impl SharedGradients {
    /// Gradients of `kind` for a model spread as `shards` says over `group`.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn new(shards: Shards, group: Group, (kind, device): (Kind, Device)) -> Result<Self, LmError> {
        let place = |padded: usize| -> Result<Place, LmError> {
            let whole = Tensor::f_empty([padded as i64], (kind, device))?;
            torch_ext::release_memory(&whole)?;
            Ok(Place { whole, here: false })
        };
        let places = shards.pieces.iter().map(|piece| Ok((piece.part, place(piece.share.padded())?)));
        let places = places.collect::<Result<_, LmError>>()?;
        let sums = Tensor::f_zeros([shards.length() as i64], (kind, device))?;
        let moving = Mutex::new(Moving { sums, places, on_the_way: VecDeque::new() });
        Ok(Self(Arc::new(Inner { shards, group, moving })))
    }

    /// This rank's share of the sums, laid out as its shards; complete after [`Self::finish`].
    pub fn sums(&self) -> Tensor {
        self.0.moving().sums.shallow_clone()
    }

    /// Waits for the sums on their way.
    ///
    /// # Errors
    /// If another rank is gone.
    pub fn finish(&self) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        while !moving.on_the_way.is_empty() {
            self.0.settle(&mut moving)?;
        }
        Ok(())
    }
}

impl Inner {
    fn moving(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the oldest sum on its way.
    fn settle(&self, moving: &mut Moving) -> Result<(), LmError> {
        let Some((part, share, pending)) = moving.on_the_way.pop_front() else { return Ok(()) };
        pending.wait().map_err(|e| lost(&e))?;
        let piece = self.shards.piece(part);
        let sum = moving.sums.narrow(0, piece.at as i64, piece.share.length() as i64);
        let _ = tch::no_grad(|| sum.shallow_clone().g_add_(&share));
        Ok(torch_ext::release_memory(&moving.places[&part].whole)?)
    }
}

impl Spread for SharedGradients {
    fn place(&self, part: Part) -> Tensor {
        self.0.moving().places[&part].whole.narrow(0, 0, self.0.shards.piece(part).share.numel as i64)
    }

    fn gather(&self, part: Part, _: Option<Part>) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        if moving.places[&part].here {
            return Ok(());
        }
        while moving.on_the_way.iter().any(|(busy, ..)| *busy == part) {
            self.0.settle(&mut moving)?;
        }
        let place = moving.places.get_mut(&part).expect("every part has a place");
        torch_ext::restore_memory(&place.whole)?;
        let _ = tch::no_grad(|| place.whole.data().zero_());
        place.here = true;
        Ok(())
    }

    fn release(&self, part: Part) -> Result<(), LmError> {
        let mut moving = self.0.moving();
        let place = moving.places.get_mut(&part).expect("every part has a place");
        place.here = false;
        let whole = place.whole.data();
        let length = self.0.shards.piece(part).share.length() as i64;
        let share = Tensor::f_empty([length], (whole.kind(), whole.device()))?;
        let pending = self.0.group.sum_shares(&format!("sum the gradients of {part:?}"), &share, &whole);
        moving.on_the_way.push_back((part, share, pending.map_err(|e| lost(&e))?));
        while moving.on_the_way.len() > ON_THE_WAY {
            self.0.settle(&mut moving)?;
        }
        Ok(())
    }
}
