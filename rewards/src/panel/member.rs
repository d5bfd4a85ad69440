//! One judge of a panel.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use chat::completer::Usage;
use chat::{Completer, PromptSet};
use configs::judge::JudgePrices;
use sha2::{Digest, Sha256};

use super::cache::VerdictCache;
use super::worker::RemoteJudge;
use super::{JudgeModel, JudgeStats, Key, Keyed, PanelJudge, VerdictStore, Verdicts};
use crate::judge::{Judge, JudgeError, JudgeSettings, Verdict};
use crate::query::JudgeQuery;

/// Number of verdicts that each judge keeps in memory.
const KEPT: usize = 1 << 17;

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    hits: u64,
    usage: Usage,
    seconds: f64,
}

/// Where a judge answers.
enum JudgeBackend {
    Local(Box<LocalJudge>),
    Remote(RefCell<RemoteJudge>),
}

struct LocalJudge {
    model: Box<dyn Completer>,
    prompts: PromptSet,
    settings: JudgeSettings,
}

/// A judge of a panel, with its verdicts so far.
pub(super) struct Member {
    pub name: String,
    pub weight: f64,
    tasks: Vec<String>,
    prices: JudgePrices,
    /// Digest of settings and prompt set.
    identity: Key,
    backend: JudgeBackend,
    cache: RefCell<VerdictCache>,
    counts: RefCell<Counts>,
}

impl Member {
    pub fn new(judge: PanelJudge) -> Result<Self, JudgeError> {
        let PanelJudge { name, weight, tasks, model, prompts, settings, prices, store } = judge;
        let stored = store.as_ref().map_or("", VerdictStore::model).to_owned();
        let identity = identity(&stored, &settings, &prompts);
        let backend = match model {
            JudgeModel::Local(model) => {
                Judge::new(&*model, &prompts, settings.clone())?;
                JudgeBackend::Local(Box::new(LocalJudge { model, prompts, settings }))
            }
            JudgeModel::Remote(model) => {
                JudgeBackend::Remote(RefCell::new(RemoteJudge::start(&name, model, prompts, settings)?))
            }
        };
        let (cache, counts) = (RefCell::new(VerdictCache::new(KEPT, store)), RefCell::default());
        Ok(Self { name, weight, tasks, prices, identity, backend, cache, counts })
    }

    pub fn serves(&self, task: Option<&str>) -> bool {
        configs::judge::serves(self.weight, &self.tasks, task)
    }

    /// Returns the key of a query, given as JSON.
    pub fn key(&self, query: &[u8]) -> Key {
        Sha256::new_with_prefix(self.identity).chain_update(query).finalize().into()
    }

    /// Sends those of `batch` that were neither answered nor sent, if the judge is at an endpoint.
    pub fn submit(&self, batch: &[Keyed<'_>]) -> Result<(), JudgeError> {
        let JudgeBackend::Remote(remote) = &self.backend else { return Ok(()) };
        let mut remote = remote.borrow_mut();
        let mut new = Vec::new();
        for (key, query) in batch {
            if !remote.is_sent(key) && self.cache.borrow_mut().get(key)?.is_none() {
                new.push((*key, *query));
            }
        }
        self.counts.borrow_mut().requests += new.len() as u64;
        remote.send(&new);
        Ok(())
    }

    /// Returns whether the judge is at an endpoint.
    pub fn is_remote(&self) -> bool {
        matches!(self.backend, JudgeBackend::Remote(_))
    }

    /// Returns the verdicts that are known, and the queries that are still to be asked, which are sent to an endpoint. Counts both.
    pub fn look_up<'q>(&self, batch: &[Keyed<'q>]) -> Result<(Verdicts, Vec<Keyed<'q>>), JudgeError> {
        let (mut known, mut new) = (HashMap::new(), Vec::new());
        for (key, query) in batch {
            let sent = matches!(&self.backend, JudgeBackend::Remote(remote) if remote.borrow().is_sent(key));
            if sent {
                continue;
            }
            match self.cache.borrow_mut().get(key)? {
                Some(verdict) => {
                    known.insert(*key, verdict);
                }
                None => new.push((*key, *query)),
            }
        }
        let mut counts = self.counts.borrow_mut();
        counts.requests += (known.len() + new.len()) as u64;
        counts.hits += known.len() as u64;
        if let JudgeBackend::Remote(remote) = &self.backend {
            remote.borrow_mut().send(&new);
        }
        Ok((known, new))
    }

    /// Answers `batch` on this thread, if the judge is in this process.
    pub fn answer_locally(&self, batch: &[Keyed<'_>]) -> Result<Vec<(Key, Verdict)>, JudgeError> {
        let JudgeBackend::Local(judge) = &self.backend else { return Ok(Vec::new()) };
        let LocalJudge { model, prompts, settings } = &**judge;
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let (begin, before) = (Instant::now(), model.usage());
        let queries: Vec<&JudgeQuery> = batch.iter().map(|(_, query)| *query).collect();
        let verdicts = Judge::new(&**model, prompts, settings.clone())?.answer(&queries)?;
        let mut counts = self.counts.borrow_mut();
        counts.seconds += begin.elapsed().as_secs_f64();
        counts.usage = counts.usage.plus(model.usage().since(before));
        let answered: Vec<(Key, Verdict)> = batch.iter().map(|(key, _)| *key).zip(verdicts).collect();
        for (key, verdict) in &answered {
            self.cache.borrow_mut().insert(*key, verdict)?;
        }
        Ok(answered)
    }

    /// Waits for the verdicts of those of `batch` that are not in `known`, if the judge is at an endpoint.
    pub fn collect_remote(&self, batch: &[Keyed<'_>], known: &Verdicts) -> Result<Vec<(Key, Verdict)>, JudgeError> {
        let JudgeBackend::Remote(remote) = &self.backend else { return Ok(Vec::new()) };
        let mut remote = remote.borrow_mut();
        let mut answered = Vec::new();
        for (key, _) in batch.iter().filter(|(key, _)| !known.contains_key(key)) {
            let verdict = remote.take(key)?;
            self.cache.borrow_mut().insert(*key, &verdict)?;
            answered.push((*key, verdict));
        }
        let (usage, seconds) = remote.take_work();
        let mut counts = self.counts.borrow_mut();
        counts.usage = counts.usage.plus(usage);
        counts.seconds += seconds;
        Ok(answered)
    }

    /// Returns what the judge did since the last call.
    pub fn take_stats(&self) -> JudgeStats {
        let Counts { requests, hits, usage, seconds } = self.counts.take();
        let per_million = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        let JudgePrices { prompt, completion } = self.prices;
        let cost = per_million(usage.prompt_tokens, prompt) + per_million(usage.completion_tokens, completion);
        JudgeStats {
            judge: self.name.clone(),
            requests,
            hits,
            tokens: usage.prompt_tokens + usage.completion_tokens,
            seconds,
            cost: self.prices.are_given().then_some(cost),
        }
    }
}

/// Returns the digest of all that a verdict depends on besides the query.
fn identity(model: &str, settings: &JudgeSettings, prompts: &PromptSet) -> Key {
    let parts = (model, settings.effective(), prompts.manifest().hash);
    Sha256::digest(serde_json::to_vec(&parts).expect("texts and finite numbers always serialize")).into()
}
