//! A model in this process whose answers are kept in a journal.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::completer::{CompleterError, Done, Failures, JournalStats, Usage};
use crate::journal::{Journal, Key, key};
use crate::{Completer, Completion, CompletionRequest, FinishReason, TokenLogprob};

/// A completer that writes every answer of another one to a journal, and reuses the answers that the journal already holds.
#[derive(Debug)]
pub struct Journaled<M> {
    model: M,
    identity: String,
    file: PathBuf,
    journal: RefCell<Journal>,
    stats: Cell<JournalStats>,
    /// The usage of the calls of this completer, of several that may share the model.
    usage: Cell<Usage>,
}

impl<M: Completer> Journaled<M> {
    /// Opens the journal in `file`. `identity` is everything that the answers depend on beside the request, such as a hash of the
    /// model's files; answers of another identity are not reused. An answer is written as soon as the model has finished it
    /// ([`Completer::complete_with`]).
    ///
    /// # Errors
    /// Returns an error if the file cannot be opened, or is not a journal.
    pub fn open(model: M, identity: impl Into<String>, file: &Path) -> Result<Self, CompleterError> {
        let journal = Journal::open(file).map_err(|e| CompleterError::Model(format!("{}: {e}", file.display())))?;
        Ok(Self {
            model,
            identity: identity.into(),
            file: file.to_owned(),
            journal: RefCell::new(journal),
            stats: Cell::default(),
            usage: Cell::default(),
        })
    }

    /// Returns the digest of a request to this model.
    fn key(&self, request: &CompletionRequest) -> Key {
        let CompletionRequest { messages, sampling, top_logprobs, stop, seed, thinking, choices, continuation } =
            request;
        let parts = (&self.identity, messages, sampling, top_logprobs, stop, seed, thinking, choices, continuation);
        key(serde_json::to_vec(&parts).expect("texts and numbers always serialize"))
    }

    /// Answers the requests from the journal, and the others with the model.
    fn answer(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        let keys: Vec<Key> = requests.iter().map(|request| self.key(request)).collect();
        let mut answers: Vec<Option<Result<Completion, String>>> = {
            let mut journal = self.journal.borrow_mut();
            keys.iter().map(|key| journal.get::<Answer>(key).map(|answer| Ok(answer.into()))).collect()
        };
        let missing: Vec<usize> = (0..requests.len()).filter(|&i| answers[i].is_none()).collect();
        self.count(0, requests.len() - missing.len());
        for (index, answer) in answers.iter().enumerate() {
            if let Some(Ok(completion)) = answer {
                done(index, completion)?;
            }
        }
        if missing.is_empty() {
            return Ok(answers.into_iter().flatten().collect());
        }
        let batch: Vec<CompletionRequest> = missing.iter().map(|&i| requests[i].clone()).collect();
        let before = self.model.usage();
        let mut write = |index: usize, completion: &Completion| {
            let index = missing[index];
            self.count(1, 0);
            self.journal.borrow_mut().put(&keys[index], &Answer::from(completion)).map_err(|e| {
                let file = self.file.display();
                CompleterError::Model(format!("{file}: cannot write: {e}; free disk space and run the command again"))
            })?;
            done(index, completion)
        };
        let asked = self.model.complete_with(&batch, failures, &mut write);
        self.usage.set(self.usage.get().plus(self.model.usage().since(before)));
        let asked = asked.map_err(|error| match error {
            CompleterError::Request { index, message } if index < missing.len() => {
                CompleterError::Request { index: missing[index], message }
            }
            other => other,
        })?;
        for (&index, answer) in missing.iter().zip(asked) {
            answers[index] = Some(answer);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn count(&self, sent: usize, reused: usize) {
        let stats = self.stats.get();
        self.stats.set(JournalStats { sent: stats.sent + sent as u64, reused: stats.reused + reused as u64, ..stats });
    }
}

impl<M: Completer> Completer for Journaled<M> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answers = self.answer(requests, Failures::Stop, &mut |_, _| Ok(()))?.into_iter();
        answers.map(|answer| answer.map_err(CompleterError::Model)).collect()
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.answer(requests, Failures::Keep, &mut |_, _| Ok(()))
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.answer(requests, failures, done)
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    fn usage(&self) -> Usage {
        self.usage.get()
    }

    fn journal_stats(&self) -> JournalStats {
        self.stats.get()
    }
}

/// A completion as a journal holds it. JSON has no infinite numbers, so a log-probability of negative infinity is absent.
#[derive(Serialize, Deserialize)]
struct Answer {
    text: String,
    length: bool,
    tokens: Vec<(String, Option<f32>, Vec<Alternative>)>,
}

/// Text and log-probability.
type Alternative = (String, Option<f32>);

impl From<&Completion> for Answer {
    fn from(completion: &Completion) -> Self {
        let finite = |logprob: f32| logprob.is_finite().then_some(logprob);
        let token = |token: &TokenLogprob| {
            let top = token.top.iter().map(|(text, logprob)| (text.clone(), finite(*logprob)));
            (token.text.clone(), finite(token.logprob), top.collect())
        };
        Self {
            text: completion.text.clone(),
            length: completion.finish == FinishReason::Length,
            tokens: completion.tokens.iter().map(token).collect(),
        }
    }
}

impl From<Answer> for Completion {
    fn from(answer: Answer) -> Self {
        let number = |logprob: Option<f32>| logprob.unwrap_or(f32::NEG_INFINITY);
        let token = |(text, logprob, top): (String, Option<f32>, Vec<Alternative>)| TokenLogprob {
            text,
            logprob: number(logprob),
            top: top.into_iter().map(|(text, logprob)| (text, number(logprob))).collect(),
        };
        Self {
            text: answer.text,
            tokens: answer.tokens.into_iter().map(token).collect(),
            finish: if answer.length { FinishReason::Length } else { FinishReason::Stop },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, Sampling};

    /// Answers with the seed, one request after another, and counts the requests. Fails on the seed 13, and panics before `most` answers
    /// are exceeded.
    struct Model {
        requests: Cell<usize>,
        most: usize,
    }

    impl Model {
        fn new(most: usize) -> Self {
            Self { requests: Cell::new(0), most }
        }

        fn answer(&self, request: &CompletionRequest) -> Completion {
            self.requests.set(self.requests.get() + 1);
            assert!(self.requests.get() <= self.most, "killed");
            let token = TokenLogprob {
                text: "A".into(),
                logprob: -(request.seed as f32) / 3.0,
                top: vec![("A".into(), -0.1), ("B".into(), f32::NEG_INFINITY)],
            };
            Completion {
                text: format!("{} é\n", request.seed),
                tokens: vec![token],
                finish: if request.seed.is_multiple_of(2) { FinishReason::Stop } else { FinishReason::Length },
            }
        }
    }

    impl Completer for Model {
        fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
            let answers = self.complete_with(requests, Failures::Stop, &mut |_, _| Ok(()))?;
            answers.into_iter().map(|answer| answer.map_err(CompleterError::Model)).collect()
        }

        fn complete_with(
            &self,
            requests: &[CompletionRequest],
            failures: Failures,
            done: &mut Done<'_>,
        ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
            let mut answers = Vec::new();
            for (index, request) in requests.iter().enumerate() {
                match (request.seed, failures) {
                    (13, Failures::Stop) => {
                        return Err(CompleterError::Request { index, message: "unlucky".into() });
                    }
                    (13, Failures::Keep) => answers.push(Err("unlucky".into())),
                    _ => {
                        let answer = self.answer(request);
                        done(index, &answer)?;
                        answers.push(Ok(answer));
                    }
                }
            }
            Ok(answers)
        }

        fn name(&self) -> &str {
            "model"
        }
    }

    fn request(seed: u64) -> CompletionRequest {
        CompletionRequest { seed, ..CompletionRequest::new(vec![Message::user("hi")], Sampling::greedy(9)) }
    }

    #[test]
    fn nothing_is_asked_twice_and_every_answer_comes_back_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("journal.jsonl");
        let open = |identity: &str| Journaled::open(Model::new(99), identity, &file).unwrap();
        let requests: Vec<_> = (0..8).map(request).collect();
        let model = open("m");
        let first = model.complete(&requests).unwrap();
        assert_eq!(first, Model::new(99).complete(&requests).unwrap());
        assert_eq!((model.model.requests.get(), model.journal_stats().sent), (8, 8));
        drop(model);
        let model = open("m");
        assert_eq!(model.complete(&requests).unwrap(), first);
        assert_eq!(model.complete_each(&requests).unwrap(), first.into_iter().map(Ok).collect::<Vec<_>>());
        assert_eq!(model.model.requests.get(), 0);
        assert_eq!(model.journal_stats(), JournalStats { sent: 0, reused: 16, ..JournalStats::default() });
        // Whatever an answer depends on is part of the key.
        let other = open("other");
        other.complete(&requests[..1]).unwrap();
        let base = request(0);
        for changed in [
            CompletionRequest { thinking: Some(false), ..base.clone() },
            CompletionRequest { top_logprobs: 1, ..base.clone() },
            CompletionRequest { stop: vec!["x".into()], ..base.clone() },
            CompletionRequest { choices: Some(["a".into(), "b".into()]), ..base.clone() },
            CompletionRequest { continuation: Some("c".into()), ..base.clone() },
            CompletionRequest { sampling: Sampling::greedy(8), ..base.clone() },
            CompletionRequest { messages: vec![Message::user("ho")], ..base },
        ] {
            other.complete(&[changed]).unwrap();
        }
        assert_eq!(other.model.requests.get(), 8);
    }

    #[test]
    fn a_failed_call_keeps_the_answers_of_those_before_it() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("journal.jsonl");
        let requests: Vec<_> = [1, 2, 3, 4, 13, 6].map(request).into();
        let model = Journaled::open(Model::new(99), "m", &file).unwrap();
        match model.complete(&requests).unwrap_err() {
            CompleterError::Request { index, message } => assert_eq!((index, message.as_str()), (4, "unlucky")),
            other => panic!("{other}"),
        }
        drop(model);
        let model = Journaled::open(Model::new(99), "m", &file).unwrap();
        let mut done = Vec::new();
        let mut note = |index: usize, _: &Completion| {
            done.push(index);
            Ok(())
        };
        let answers = model.complete_with(&requests, Failures::Keep, &mut note).unwrap();
        assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, true, false, true]);
        assert_eq!(done, [0, 1, 2, 3, 5]);
        // Four were known; a request that fails is neither written nor counted.
        let JournalStats { sent, reused, .. } = model.journal_stats();
        assert_eq!((model.model.requests.get(), sent, reused), (1, 1, 4));
        // The index of a failure is that in the caller's list.
        assert!(matches!(model.complete(&requests), Err(CompleterError::Request { index: 4, .. })));
    }

    #[test]
    fn a_process_that_dies_within_a_call_keeps_what_the_model_had_finished() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("journal.jsonl");
        let requests: Vec<_> = (20..30).map(request).collect();
        let model = Journaled::open(Model::new(4), "m", &file).unwrap();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.complete(&requests))).is_err());
        drop(model);
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
        let model = Journaled::open(Model::new(99), "m", &file).unwrap();
        assert_eq!(model.complete(&requests).unwrap().len(), 10);
        assert_eq!(model.model.requests.get(), 6);
    }
}
