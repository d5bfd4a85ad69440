//! `xplore score`: computes log-probabilities of given texts, or of given answers to them.

use chat::tokenizer::Tokenizer;
use lm::generate::{ScoreRequest, Scored};
use serde_json::{Value as Json, json};

use crate::commands::input::{self, InputRow, RowError};
use crate::commands::questions::{Questions, in_file};
use crate::commands::stats::Stats;
use xplore::Error;

/// Returns the request of a row: with `candidates`, the log-probabilities of the candidates only; otherwise those of all tokens.
fn request(row: InputRow, tokenizer: &Tokenizer) -> Result<ScoreRequest, RowError> {
    let candidates = row.candidates(tokenizer)?;
    Ok(match candidates {
        None => ScoreRequest { ids: row.conversation(tokenizer)?, from: 1, candidates: Vec::new() },
        Some(candidates) => {
            let ids = row.prompt(tokenizer)?;
            ScoreRequest { from: ids.len(), ids, candidates }
        }
    })
}

/// Runs `xplore score`.
pub fn score(asked: &Questions) -> Result<(), Error> {
    let model = asked.source.load()?;
    let requests = input::read(&asked.input, |row| request(row, &model.tokenizer))?;
    let stats = Stats::begin();
    let (scores, counts) = model.generator().score(&requests).map_err(in_file(&asked.input))?;
    let line = |(row, (request, scored)): (usize, (&ScoreRequest, Scored))| {
        if !request.candidates.is_empty() {
            return json!({ "row": row, "prompt_tokens": request.ids.len(), "candidates": scored.candidates });
        }
        // The first token has no context, hence no log-probability.
        let logprobs: Vec<Option<f32>> = std::iter::once(None).chain(scored.logprobs.into_iter().map(Some)).collect();
        json!({ "row": row, "ids": request.ids, "logprobs": logprobs })
    };
    let lines: Vec<Json> = requests.iter().zip(scores).enumerate().map(line).collect();
    asked.answer(&lines, &stats, &counts)
}
