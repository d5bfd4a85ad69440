//! A model in this process as a [`chat::Completer`].

use std::collections::HashMap;
use std::path::Path;

use chat::completer::CompleterError;
use chat::text_stream::StopText;
use chat::tokenizer::Tokenizer;
use chat::{Completer, Completion, CompletionRequest, TokenLogprob};
use rayon::prelude::*;
use tch::{Device, Kind};

use crate::generate::{Generated, Generator, Limits, Request, StopHook};
use crate::{Decoder, LmError, checkpoint};

/// A model with its tokenizer.
#[derive(Debug)]
pub struct LocalModel {
    /// The model.
    pub decoder: Decoder,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Limits of the generation engine.
    pub limits: Limits,
    name: String,
}

impl LocalModel {
    /// Combines a model with a tokenizer.
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
        Ok(Self { decoder, tokenizer, limits: Limits::default(), name: name.into() })
    }

    /// Replaces the decoder by the result of `change`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn with_decoder<E>(self, change: impl FnOnce(Decoder) -> Result<Decoder, E>) -> Result<Self, E> {
        let Self { decoder, tokenizer, limits, name } = self;
        Ok(Self { decoder: change(decoder)?, tokenizer, limits, name })
    }

    /// Loads a model folder.
    ///
    /// # Errors
    /// [`LmError::File`], which names the invalid file.
    pub fn load(folder: &Path, kind: Kind, device: Device) -> Result<Self, LmError> {
        let decoder = checkpoint::load(folder, kind, device)?;
        Self::new(&folder.display().to_string(), decoder, Tokenizer::load(folder)?)
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
        let at = |index: usize, message: String| CompleterError::Request { index, message };
        let (tokenizer, context) = (&self.tokenizer, self.decoder.spec().context());
        let prompts: Vec<Vec<u32>> = requests
            .par_iter()
            .enumerate()
            .map(|(i, r)| {
                let ids = tokenizer.encode_chat(&r.messages, r.thinking).map_err(|e| at(i, e.to_string()))?;
                if ids.len() >= context {
                    let n = ids.len();
                    return Err(at(i, format!("the prompt has {n} tokens; the model's context holds {context}")));
                }
                Ok(ids)
            })
            .collect::<Result<_, _>>()?;

        // Requests with equal prompts and settings become samples of one request.
        let mut groups: Vec<(Request, Vec<usize>)> = Vec::new();
        let mut seen: HashMap<RequestKey<'_>, usize> = HashMap::new();
        for (i, (prompt, r)) in prompts.iter().zip(requests).enumerate() {
            let group = *seen.entry((prompt, settings(r))).or_insert_with(|| {
                let request = Request {
                    prompt: prompt.clone(),
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
        let batch: Vec<Request> = groups.iter().map(|(request, _)| request.clone()).collect();
        let model = |e: LmError| e.into_completer_error(&self.name);
        let mut texts: Vec<StopText<'_>> = requests.iter().map(|r| StopText::new(tokenizer, &r.stop)).collect();
        let mut hook = |group: usize, sample: usize, id: u32| texts[groups[group].1[sample]].push(id);
        let stops = requests.iter().any(|r| !r.stop.is_empty());
        let hook = stops.then_some(&mut hook as &mut StopHook<'_>);
        let generated = self.generator().generate(&batch, hook).map_err(model)?;
        let mut answers: Vec<Option<Completion>> = requests.iter().map(|_| None).collect();
        for ((_, members), samples) in groups.iter().zip(&generated) {
            for (&i, sample) in members.iter().zip(samples) {
                answers[i] = Some(self.completion(sample, &requests[i]).map_err(model)?);
            }
        }
        Ok(answers.into_iter().map(|a| a.expect("every request is in a group")).collect())
    }

    fn name(&self) -> &str {
        &self.name
    }
}
