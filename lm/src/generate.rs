//! Generates for, or scores, a list of requests to completion: [`Engine`] for callers that need only the results.

use std::collections::HashMap;
use std::ops::ControlFlow;

pub use crate::engine::{Alternative, Generated, Limits, Request, RequestId, ScoreRequest, Scored};
use crate::engine::{Engine, EngineStats, SampledToken};
use crate::{Decoder, LmError};

/// Model and settings that all requests share.
#[derive(Clone, Copy)]
pub struct Generator<'a> {
    /// The model.
    pub model: &'a Decoder,
    /// Tokens that end a turn.
    pub stop_ids: &'a [u32],
    /// Limits of the engine.
    pub limits: Limits,
}

/// Callback after each new token, with (request index, sample, token). Returns whether the sample stops here.
pub type StopHook<'a> = dyn FnMut(usize, usize, u32) -> bool + 'a;

/// Callback after all samples of a request are finished, with (request index, samples), while others are still generated.
pub type DoneHook<'a> = dyn FnMut(usize, &[Generated]) + 'a;

impl std::fmt::Debug for Generator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generator({:?})", self.limits)
    }
}

/// Adds the index of the invalid request in the caller's list to an error.
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

    /// Generates all samples of all requests. Returns one list for each request, with one entry for each seed.
    ///
    /// # Errors
    /// If a prompt is empty or fills the model's context, or if libtorch fails.
    pub fn generate(
        &self,
        requests: &[Request],
        stop: Option<&mut StopHook<'_>>,
    ) -> Result<Vec<Vec<Generated>>, LmError> {
        Ok(self.generate_counted(requests, stop)?.0)
    }

    /// Generates as [`Self::generate`], and calls `done` after each request.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_with(
        &self,
        requests: &[Request],
        done: Option<&mut DoneHook<'_>>,
    ) -> Result<Vec<Vec<Generated>>, LmError> {
        match done {
            None => self.generate(requests, None),
            Some(done) => {
                let mut goes_on = |index: usize, samples: &[Generated]| {
                    done(index, samples);
                    ControlFlow::Continue(())
                };
                Ok(self.run(requests, None, &mut goes_on)?.0)
            }
        }
    }

    /// Generates as [`Self::generate`], and also returns the engine's statistics.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub fn generate_counted(
        &self,
        requests: &[Request],
        stop: Option<&mut StopHook<'_>>,
    ) -> Result<(Vec<Vec<Generated>>, EngineStats), LmError> {
        self.run(requests, stop, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Generates with both hooks. Once `done` breaks, nothing further is computed; requests that are not finished have no samples.
    pub(crate) fn run(
        &self,
        requests: &[Request],
        mut stop: Option<&mut StopHook<'_>>,
        done: &mut dyn FnMut(usize, &[Generated]) -> ControlFlow<()>,
    ) -> Result<(Vec<Vec<Generated>>, EngineStats), LmError> {
        let mut engine = self.engine();
        let mut places = HashMap::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            places.insert(engine.submit(request.clone()).map_err(at(index))?, index);
        }
        let mut results: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
        while !engine.is_idle() {
            let output = engine.step()?;
            if let Some(stop) = stop.as_mut() {
                for SampledToken { request, sample, id, .. } in output.sampled {
                    if stop(places[&request], sample, id) {
                        engine.stop(request, sample);
                    }
                }
            }
            for id in output.done {
                let index = places[&id];
                results[index] = engine.take(id).unwrap_or_default();
                if done(index, &results[index]).is_break() {
                    return Ok((results, engine.stats()));
                }
            }
        }
        Ok((results, engine.stats()))
    }

    /// Returns the log-probabilities of given tokens, in the order of the requests, and the engine's statistics.
    ///
    /// # Errors
    /// If a request is invalid (see [`Engine::submit_score`]), or if libtorch fails.
    pub fn score(&self, requests: &[ScoreRequest]) -> Result<(Vec<Scored>, EngineStats), LmError> {
        self.run_scores(requests, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Scores as [`Self::score`], and calls `done` after each request, while others are still scored. Once it breaks, nothing further is
    /// computed.
    pub(crate) fn run_scores(
        &self,
        requests: &[ScoreRequest],
        done: &mut dyn FnMut(usize, &Scored) -> ControlFlow<()>,
    ) -> Result<(Vec<Scored>, EngineStats), LmError> {
        let mut engine = self.engine();
        let mut places = HashMap::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            places.insert(engine.submit_score(request.clone()).map_err(at(index))?, index);
        }
        let mut results: Vec<Scored> = requests.iter().map(|_| Scored::default()).collect();
        while !engine.is_idle() {
            for id in engine.step()?.done {
                let index = places[&id];
                results[index] = engine.take_scored(id).unwrap_or_default();
                if done(index, &results[index]).is_break() {
                    return Ok((results, engine.stats()));
                }
            }
        }
        Ok((results, engine.stats()))
    }
}
