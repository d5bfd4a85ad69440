//! Weights of which each rank holds a share: a part comes together while it is used.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dist::{Group, Pending};
use lm::params::Part;
use lm::{LmError, Spread};
use tch::Tensor;

use super::shards::Shards;
use super::team::lost;

/// See [`Spread`].
#[derive(Debug)]
pub struct SharedWeights {
    shards: Shards,
    share: Tensor,
    group: Group,
    places: Mutex<BTreeMap<Part, Place>>,
}

#[derive(Debug)]
struct Place {
    /// As long as all shares of the part.
    whole: Tensor,
    state: State,
}

#[derive(Debug)]
enum State {
    Away,
    Coming(Pending),
    Here,
}

impl SharedWeights {
    /// Spread as `shards` says over `group`, `share` being what this rank holds.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn new(shards: Shards, share: &Tensor, group: Group) -> Result<Self, LmError> {
        let place = |padded: usize| -> Result<Place, LmError> {
            let whole = Tensor::f_empty([padded as i64], (share.kind(), share.device()))?;
            torch_ext::release_memory(&whole)?;
            Ok(Place { whole, state: State::Away })
        };
        let places = shards.pieces.iter().map(|piece| Ok((piece.part, place(piece.share.padded())?)));
        let places = Mutex::new(places.collect::<Result<_, LmError>>()?);
        Ok(Self { shards, share: share.shallow_clone(), group, places })
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Part, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, places: &mut BTreeMap<Part, Place>, part: Part) -> Result<(), LmError> {
        let place = places.get_mut(&part).expect("every part has a place");
        if !matches!(place.state, State::Away) {
            return Ok(());
        }
        torch_ext::restore_memory(&place.whole)?;
        let piece = self.shards.piece(part);
        let own = self.share.narrow(0, piece.at as i64, piece.share.length() as i64);
        // Through a view with a count of its own: what graphs keep of the weights has not changed in their eyes.
        let coming = self.group.all_shares(&format!("gather the weights of {part:?}"), &place.whole.data(), &own);
        place.state = State::Coming(coming.map_err(|e| lost(&e))?);
        Ok(())
    }
}

impl Spread for SharedWeights {
    fn place(&self, part: Part) -> Tensor {
        self.places()[&part].whole.narrow(0, 0, self.shards.piece(part).share.numel as i64)
    }

    fn gather(&self, part: Part, next: Option<Part>) -> Result<(), LmError> {
        let mut places = self.places();
        self.begin(&mut places, part)?;
        let place = places.get_mut(&part).expect("every part has a place");
        if let State::Coming(coming) = std::mem::replace(&mut place.state, State::Here) {
            coming.wait().map_err(|e| lost(&e))?;
        }
        next.map_or(Ok(()), |next| self.begin(&mut places, next))
    }

    fn release(&self, part: Part) -> Result<(), LmError> {
        let mut places = self.places();
        let place = places.get_mut(&part).expect("every part has a place");
        if let State::Coming(coming) = std::mem::replace(&mut place.state, State::Away) {
            coming.wait().map_err(|e| lost(&e))?;
        }
        Ok(torch_ext::release_memory(&place.whole)?)
    }
}
