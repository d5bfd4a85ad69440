//! A judge at an endpoint, which answers on a thread of its own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use chat::completer::{CompleterError, Usage};
use chat::{Completer, PromptSet};

use super::Key;
use crate::judge::{Judge, JudgeError, JudgeSettings, Verdict};
use crate::query::JudgeQuery;

type Batch = Vec<(Key, JudgeQuery)>;

/// The answers to one or more batches.
struct Answers {
    verdicts: Result<Vec<(Key, Verdict)>, JudgeError>,
    usage: Usage,
    seconds: f64,
}

/// Handle of the thread. The thread ends when this is dropped, after the requests in flight.
pub(super) struct RemoteJudge {
    name: String,
    queries: Sender<Batch>,
    answers: Receiver<Answers>,
    /// Queries without a verdict so far.
    pending: HashSet<Key>,
    /// Verdicts that were not taken so far.
    ready: HashMap<Key, Verdict>,
    usage: Usage,
    seconds: f64,
}

impl RemoteJudge {
    /// Starts the thread.
    pub fn start(
        name: &str,
        model: Arc<dyn Completer + Send + Sync>,
        prompts: PromptSet,
        settings: JudgeSettings,
    ) -> Result<Self, JudgeError> {
        Judge::new(&*model, &prompts, settings.clone())?;
        let ((queries, inbox), (outbox, answers)) = (mpsc::channel(), mpsc::channel());
        let work = move || serve(&*model, &prompts, &settings, &inbox, &outbox);
        let started = thread::Builder::new().name(format!("judge {name}")).spawn(work);
        started.map_err(|_| JudgeError::Settings("the thread of a judge at an endpoint cannot be started"))?;
        let (pending, ready) = (HashSet::new(), HashMap::new());
        Ok(Self { name: name.into(), queries, answers, pending, ready, usage: Usage::default(), seconds: 0.0 })
    }

    /// Returns whether a query was sent and its verdict not taken yet.
    pub fn is_sent(&self, key: &Key) -> bool {
        self.pending.contains(key) || self.ready.contains_key(key)
    }

    /// Sends queries that were not sent.
    pub fn send(&mut self, queries: &[(Key, &JudgeQuery)]) {
        if queries.is_empty() {
            return;
        }
        self.pending.extend(queries.iter().map(|(key, _)| *key));
        // A thread that has ended is reported by `take`.
        let _ = self.queries.send(queries.iter().map(|(key, query)| (*key, (*query).clone())).collect());
    }

    /// Waits for the verdict on a query that was sent.
    pub fn take(&mut self, key: &Key) -> Result<Verdict, JudgeError> {
        loop {
            if let Some(verdict) = self.ready.remove(key) {
                return Ok(verdict);
            }
            let Ok(Answers { verdicts, usage, seconds }) = self.answers.recv() else {
                let source = CompleterError::Model("its thread ended unexpectedly; see the log above".into());
                return Err(JudgeError::Model { judge: self.name.clone(), source });
            };
            self.usage = self.usage.plus(usage);
            self.seconds += seconds;
            // The queries of a failed batch have no answer to wait for: they are sent again when they are asked again.
            for (key, verdict) in verdicts.inspect_err(|_| self.pending.clear())? {
                self.pending.remove(&key);
                self.ready.insert(key, verdict);
            }
        }
    }

    /// Returns the work of the thread since the last call, as far as its answers have arrived.
    pub fn take_work(&mut self) -> (Usage, f64) {
        (std::mem::take(&mut self.usage), std::mem::take(&mut self.seconds))
    }
}

/// Answers batches until the other end of the channel is dropped.
fn serve(
    model: &(dyn Completer + Send + Sync),
    prompts: &PromptSet,
    settings: &JudgeSettings,
    inbox: &Receiver<Batch>,
    outbox: &Sender<Answers>,
) {
    while let Ok(mut batch) = inbox.recv() {
        // Batches that arrived in the meantime are sent together, so that they share the endpoint's concurrency.
        batch.extend(inbox.try_iter().flatten());
        let (begin, before) = (Instant::now(), model.usage());
        let (keys, queries): (Vec<Key>, Vec<JudgeQuery>) = batch.into_iter().unzip();
        let judged = Judge::new(model, prompts, settings.clone()).and_then(|judge| judge.answer(&queries));
        let answers = Answers {
            verdicts: judged.map(|verdicts| keys.into_iter().zip(verdicts).collect()),
            usage: model.usage().since(before),
            seconds: begin.elapsed().as_secs_f64(),
        };
        if outbox.send(answers).is_err() {
            break;
        }
    }
}
