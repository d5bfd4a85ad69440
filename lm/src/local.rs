//! A model in this process as a [`chat::Completer`].

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use chat::completer::{CompleterError, Done, Failures, Usage};
use chat::text_stream::StopText;
use chat::tokenizer::Tokenizer;
use chat::{Completer, Completion, CompletionRequest, FinishReason, TokenLogprob};
use rayon::prelude::*;
use tch::{Device, Kind};

use crate::generate::{Generated, Generator, Limits, Request, ScoreRequest, Scored, StopHook};
use crate::{Decoder, LmError, ModelPrompts, checkpoint};

/// A model with its tokenizer.
#[derive(Debug)]
pub struct LocalModel {
    /// The model.
    pub decoder: Decoder,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Limits of the generation engine.
    pub limits: Limits,
    /// The prompt set that the model was trained on, if its folder carries one.
    pub prompts: Option<ModelPrompts>,
    name: String,
    usage: Cell<Usage>,
}

impl LocalModel {
    /// Combines a model with a tokenizer. The result carries no prompt set.
    ///
    /// # Errors
    /// If the tokenizer has more tokens than the embedding has rows.
    pub fn new(name: &str, decoder: Decoder, tokenizer: Tokenizer) -> Result<Self, LmError> {
        let (tokens, rows) = (tokenizer.vocab_size(), decoder.spec().vocab_size);
        if tokens as i64 > rows {
            return Err(LmError::Request(format!(
                "model {name}: the tokenizer has {tokens} tokens, but the embedding has only {rows} rows; use the \
                 tokenizer of this model"
            )));
        }
        Ok(Self {
            decoder,
            tokenizer,
            limits: Limits::default(),
            prompts: None,
            name: name.into(),
            usage: Cell::default(),
        })
    }

    /// Replaces the decoder by the result of `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_decoder<E>(self, change: impl FnOnce(Decoder) -> Result<Decoder, E>) -> Result<Self, E> {
        Ok(Self { decoder: change(self.decoder)?, ..self })
    }

    /// Loads a model folder.
    ///
    /// # Errors
    /// [`LmError::File`], which names the invalid file.
    pub fn load(folder: &Path, kind: Kind, device: Device) -> Result<Self, LmError> {
        let decoder = checkpoint::load(folder, kind, device)?;
        let model = Self::new(&folder.display().to_string(), decoder, Tokenizer::load(folder)?)?;
        Ok(Self { prompts: ModelPrompts::load(folder)?, ..model })
    }

    /// Returns the generation engine of this model.
    pub fn generator(&self) -> Generator<'_> {
        Generator { model: &self.decoder, stop_ids: self.tokenizer.stop_ids(), limits: self.limits }
    }

    fn completion(&self, generated: &Generated, request: &CompletionRequest) -> Result<Completion, LmError> {
        let stop = self.tokenizer.stop_ids();
        let spoken = generated.ids.len() - usize::from(generated.ids.last().is_some_and(|id| stop.contains(id)));
        let mut text = self.tokenizer.decode(&generated.ids[..spoken])?;
        // The token that completed a stop string may have more text after it.
        let ends = request.stop.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop.len())));
        if let Some((begin, length)) = ends.min() {
            text.truncate(begin + length);
        }
        let mut tokens = Vec::new();
        if request.top_logprobs > 0 {
            for top in &generated.top[..spoken] {
                let piece = |&(id, logprob): &(u32, f32)| Ok::<_, LmError>((self.tokenizer.decode(&[id])?, logprob));
                let (text, logprob) = piece(&top[0])?;
                let top = top[1..].iter().map(piece).collect::<Result<_, _>>()?;
                tokens.push(TokenLogprob { text, logprob, top });
            }
        }
        Ok(Completion { text, tokens, finish: generated.finish })
    }

    /// Answers the requests with choices by the log-probability of the token that begins each choice, and those with a continuation
    /// by the log-probabilities of its tokens.
    fn score(
        &self,
        requests: &[CompletionRequest],
        prompts: &[Result<Prompt, String>],
        answers: &mut [Option<Completion>],
        finished: &mut Finished<'_>,
    ) -> Result<(), LmError> {
        let scored = |(i, prompt): (usize, &Result<Prompt, String>)| {
            let prompt = prompt.as_ref().ok()?;
            let (from, candidates) = match prompt.scored? {
                Part::Choices(next) => (prompt.ids.len(), Vec::from(next)),
                Part::Continuation { from } => (from, Vec::new()),
            };
            Some((i, ScoreRequest { ids: prompt.ids.clone(), from, candidates }))
        };
        let (members, batch): (Vec<usize>, Vec<ScoreRequest>) = prompts.iter().enumerate().filter_map(scored).unzip();
        if batch.is_empty() {
            return Ok(());
        }
        let mut failed = None;
        let mut done = |place: usize, scored: &Scored| {
            let (i, asked) = (members[place], &batch[place]);
            let completion = if scored.candidates.is_empty() {
                self.count(asked.from, scored.logprobs.len());
                self.continuation(&asked.ids[asked.from..], &scored.logprobs)
            } else {
                self.count(asked.ids.len(), 1);
                Ok(compared(&requests[i], &scored.candidates))
            };
            keep(i, completion, answers, finished, &mut failed)
        };
        self.generator().run_scores(&batch, &mut done)?;
        failed.map_or(Ok(()), Err)
    }

    /// Returns a text whose tokens were scored.
    fn continuation(&self, ids: &[u32], logprobs: &[f32]) -> Result<Completion, LmError> {
        let token = |(&id, &logprob): (&u32, &f32)| {
            Ok(TokenLogprob { text: self.tokenizer.decode(&[id])?, logprob, top: Vec::new() })
        };
        let tokens = ids.iter().zip(logprobs).map(token).collect::<Result<_, LmError>>()?;
        Ok(Completion { text: self.tokenizer.decode(ids)?, tokens, finish: FinishReason::Length })
    }

    /// Adds to the usage.
    fn count(&self, prompt: usize, completion: usize) {
        let usage = Usage { prompt_tokens: prompt as u64, completion_tokens: completion as u64 };
        self.usage.set(self.usage.get().plus(usage));
    }

    /// Generates the answers of the requests that are not scored.
    fn generate(
        &self,
        requests: &[CompletionRequest],
        prompts: &[Result<Prompt, String>],
        answers: &mut [Option<Completion>],
        finished: &mut Finished<'_>,
    ) -> Result<(), LmError> {
        // Requests with equal prompts and settings become samples of one request.
        let mut groups: Vec<(Request, Vec<usize>)> = Vec::new();
        let mut seen: HashMap<RequestKey<'_>, usize> = HashMap::new();
        let sound = prompts.iter().zip(requests).enumerate();
        let sound = sound.filter_map(|(i, (prompt, r))| Some((i, prompt.as_ref().ok()?, r)));
        for (i, prompt, r) in sound.filter(|(_, prompt, _)| prompt.scored.is_none()) {
            let group = *seen.entry((&prompt.ids, settings(r))).or_insert_with(|| {
                let request = Request {
                    prompt: prompt.ids.clone(),
                    seeds: Vec::new(),
                    sampling: r.sampling.clone(),
                    top_logprobs: r.top_logprobs,
                };
                groups.push((request, Vec::new()));
                groups.len() - 1
            });
            groups[group].0.seeds.push(r.seed);
            groups[group].1.push(i);
        }
        if groups.is_empty() {
            return Ok(());
        }
        let batch: Vec<Request> = groups.iter().map(|(request, _)| request.clone()).collect();
        let mut texts: Vec<StopText<'_>> = requests.iter().map(|r| StopText::new(&self.tokenizer, &r.stop)).collect();
        let mut hook = |group: usize, sample: usize, id: u32| texts[groups[group].1[sample]].push(id);
        let stops = requests.iter().any(|r| !r.stop.is_empty());
        let hook = stops.then_some(&mut hook as &mut StopHook<'_>);
        let mut failed = None;
        let mut done = |group: usize, samples: &[Generated]| {
            let (request, members) = &groups[group];
            members.iter().zip(samples).try_for_each(|(&i, sample)| {
                self.count(request.prompt.len(), sample.ids.len());
                keep(i, self.completion(sample, &requests[i]), answers, finished, &mut failed)
            })
        };
        self.generator().run(&batch, hook, &mut done)?;
        failed.map_or(Ok(()), Err)
    }
}

/// Receives a completion; breaks if the others are no longer needed.
type Finished<'a> = dyn FnMut(usize, &Completion) -> ControlFlow<()> + 'a;

/// Passes a completion on to the caller and to its place.
fn keep(
    index: usize,
    completion: Result<Completion, LmError>,
    answers: &mut [Option<Completion>],
    finished: &mut Finished<'_>,
    failed: &mut Option<LmError>,
) -> ControlFlow<()> {
    match completion {
        Ok(completion) => {
            let goes_on = finished(index, &completion);
            answers[index] = Some(completion);
            goes_on
        }
        Err(error) => {
            *failed = Some(error);
            ControlFlow::Break(())
        }
    }
}

/// Returns the answer to a request with choices, given the log-probability of each.
fn compared(request: &CompletionRequest, logprobs: &[f32]) -> Completion {
    let texts = request.choices.iter().flatten().cloned();
    let mut top: Vec<(String, f32)> = texts.zip(logprobs.iter().copied()).collect();
    top.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (text, logprob) = top[0].clone();
    let tokens = vec![TokenLogprob { text: text.clone(), logprob, top }];
    Completion { text, tokens, finish: FinishReason::Length }
}

/// What is scored of a request.
#[derive(Clone, Copy)]
enum Part {
    /// The token that begins each choice.
    Choices([u32; 2]),
    /// The tokens from this index on.
    Continuation { from: usize },
}

/// The tokens of a request.
struct Prompt {
    ids: Vec<u32>,
    /// What is scored; `None` for a request to generate.
    scored: Option<Part>,
}

impl Prompt {
    /// Tokenizes a request for a model with this context length.
    fn new(request: &CompletionRequest, tokenizer: &Tokenizer, context: usize) -> Result<Self, String> {
        let CompletionRequest { messages, thinking, choices, continuation, .. } = request;
        let opening = tokenizer.template().open(messages, *thinking).map_err(|e| e.to_string())?;
        let prompt = match (choices, continuation) {
            (None, None) => Self { ids: tokenizer.encode(&opening).map_err(|e| e.to_string())?, scored: None },
            (Some(choices), _) => {
                let (ids, next) = tokenizer.encode_choices(&opening, choices).map_err(|e| e.to_string())?;
                Self { ids, scored: Some(Part::Choices(next)) }
            }
            (None, Some(text)) => {
                let whole = format!("{opening}{text}");
                let row = tokenizer.encode_after(&opening, &whole).map_err(|e| e.to_string())?;
                if row.prompt_len == 0 || row.ids.len() == row.prompt_len {
                    return Err("there is no text to score, or nothing before it".into());
                }
                Self { ids: row.ids, scored: Some(Part::Continuation { from: row.prompt_len }) }
            }
        };
        let n = prompt.ids.len();
        if n >= context {
            return Err(format!("the prompt has {n} tokens; the model's context holds {context}"));
        }
        Ok(prompt)
    }
}

/// Prompt and settings, which the samples of one request share.
type RequestKey<'a> = (&'a [u32], [u64; 8]);

/// Returns the settings as integers. Two samplings are the same if and only if these integers are equal.
fn settings(r: &CompletionRequest) -> [u64; 8] {
    let s = &r.sampling;
    [
        s.temperature.to_bits(),
        s.top_p.to_bits(),
        s.min_p.to_bits(),
        s.repetition_penalty.to_bits(),
        s.top_k as u64,
        s.max_tokens as u64,
        u64::from(s.ignore_eos),
        r.top_logprobs as u64,
    ]
}

impl Completer for LocalModel {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answers = self.complete_with(requests, Failures::Stop, &mut |_, _| Ok(()))?;
        answers.into_iter().map(|answer| answer.map_err(CompleterError::Model)).collect()
    }

    fn complete_each(&self, requests: &[CompletionRequest]) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        self.complete_with(requests, Failures::Keep, &mut |_, _| Ok(()))
    }

    fn complete_with(
        &self,
        requests: &[CompletionRequest],
        failures: Failures,
        done: &mut Done<'_>,
    ) -> Result<Vec<Result<Completion, String>>, CompleterError> {
        // The closure must not capture the decoder, whose tensors belong to one thread.
        let (tokenizer, context) = (&self.tokenizer, self.decoder.spec().context());
        let prompt = |request: &CompletionRequest| Prompt::new(request, tokenizer, context);
        let mut prompts: Vec<Result<Prompt, String>> = requests.par_iter().map(prompt).collect();
        if failures == Failures::Stop
            && let Some(index) = prompts.iter().position(Result::is_err)
            && let Err(message) = prompts.swap_remove(index)
        {
            return Err(CompleterError::Request { index, message });
        }
        let mut answers: Vec<Option<Completion>> = requests.iter().map(|_| None).collect();
        let failed = RefCell::new(None);
        let mut finished = |index: usize, completion: &Completion| match done(index, completion) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed.replace(Some(error));
                ControlFlow::Break(())
            }
        };
        let model = |e: LmError| e.into_completer_error(&self.name);
        self.score(requests, &prompts, &mut answers, &mut finished).map_err(model)?;
        if failed.borrow().is_none() {
            self.generate(requests, &prompts, &mut answers, &mut finished).map_err(model)?;
        }
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let answer = |(prompt, answer): (Result<Prompt, String>, Option<Completion>)| {
            prompt.map(|_| answer.expect("every request is scored or generated"))
        };
        Ok(prompts.into_iter().zip(answers).map(answer).collect())
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn usage(&self) -> Usage {
        self.usage.get()
    }
}
