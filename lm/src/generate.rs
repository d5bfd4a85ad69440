//! Generation and scoring of a list of requests, to the end: [`Engine`] for those who just want the answers.

use std::collections::HashMap;

pub use crate::engine::{Alternative, Generated, Limits, Request, RequestId, ScoreRequest, Scored};
use crate::engine::{Counts, Drawn, Engine};
use crate::{Decoder, LmError};

/// What every request shares.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    /// The model.
    pub model: &'a Decoder,
    /// Tokens that end a turn.
    pub stop_ids: &'a [u32],
    /// Bounds of the engine.
    pub limits: Limits,
}

/// Asked after each new token of (request index, sample, token): should this sample stop here?
pub type StopHook<'a> = dyn FnMut(usize, usize, u32) -> bool + 'a;

impl std::fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator({:?})", self.limits)
    }
}

/// Which request of the caller's list is at fault.
fn at(index: usize) -> impl Fn(LmError) -> LmError {
    move |error| match error {
        LmError::Request(message) => LmError::Request(format!("request {index} of the batch: {message}")),
        other => other,
    }
}

impl<'a> Generator<'a> {
    fn engine(&self) -> Engine<'a> {
        Engine::new(self.model, self.stop_ids, self.limits)
    }

    /// Draws every sample of every request; the result has one list a request, one entry a seed.
    ///
    /// # Errors
    /// If a prompt is empty or fills the model's context, or libtorch fails.
    pub fn generate(
        &self,
        requests: &[Request],
        stop: Option<&mut StopHook<'_>>,
    ) -> Result<Vec<Vec<Generated>>, LmError> {
        Ok(self.generate_counted(requests, stop)?.0)
    }

    /// As [`Self::generate`], with what the engine did.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_counted(
        &self,
        requests: &[Request],
        mut stop: Option<&mut StopHook<'_>>,
    ) -> Result<(Vec<Vec<Generated>>, Counts), LmError> {
        let mut engine = self.engine();
        let mut places = HashMap::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            places.insert(engine.submit(request.clone()).map_err(at(index))?, index);
        }
        let mut results: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
        while !engine.is_idle() {
            let progress = engine.step()?;
            if let Some(stop) = stop.as_mut() {
                for Drawn { request, sample, id, finish, .. } in progress.drawn {
                    if stop(places[&request], sample, id) && finish.is_none() {
                        engine.stop(request, sample);
                    }
                }
            }
            for id in progress.done {
                results[places[&id]] = engine.take(id).unwrap_or_default();
            }
        }
        Ok((results, engine.counts()))
    }

    /// Log-probabilities of given tokens, in the requests' order.
    ///
    /// # Errors
    /// If a request is not valid (see [`Engine::submit_score`]), or libtorch fails.
    pub fn score(&self, requests: &[ScoreRequest]) -> Result<(Vec<Scored>, Counts), LmError> {
        let mut engine = self.engine();
        let mut places = HashMap::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            places.insert(engine.submit_score(request.clone()).map_err(at(index))?, index);
        }
        let mut results: Vec<Scored> = requests.iter().map(|_| Scored::default()).collect();
        while !engine.is_idle() {
            for id in engine.step()?.done {
                results[places[&id]] = engine.take_scored(id).unwrap_or_default();
            }
        }
        Ok((results, engine.counts()))
    }
}
