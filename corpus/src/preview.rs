//! Rows as the model will see them, for display.

use std::fmt::Write;
use std::path::Path;

use chat::tokenizer::{Tokenizer, TokenizerError};
use configs::sft::SftData;

use crate::open::sets;
use crate::tokenize::{self, Rules, Tokenized};
use crate::{CorpusError, CorpusReport, MaskedSequence, Report, raw, source};

const GREEN: (&str, &str) = ("\x1b[32m", "\x1b[0m");
const BRACKETS: (&str, &str) = ("⟦", "⟧");

/// Renders the first `rows` rows of each training set, with trained text in green, or in ⟦ ⟧ without `color`. With a
/// report, the counts of kept and skipped rows follow. A row that cannot be trained on is shown with the reason.
///
/// # Errors
/// Returns an error if a set is not available, or a row has none of the known formats.
pub fn preview(
    data: &SftData,
    tokenizer: &Tokenizer,
    report: Option<&CorpusReport>,
    rows: usize,
    color: bool,
) -> Result<String, CorpusError> {
    let mut out = String::new();
    for set in sets(data) {
        let mut left = rows;
        for file in source::files(&set.path, &hub::HubSettings::from_environment())? {
            for raw in raw::open(&file)?.take(left) {
                out += &one(&raw?, &file, data.into(), tokenizer, color)?;
                left -= 1;
            }
        }
    }
    let reports = report.iter().flat_map(|r| r.sets.iter().chain(&r.validation));
    for (name, report) in reports {
        out += &totals(name, report);
    }
    Ok(out)
}

fn one(
    raw: &crate::raw_row::RawRow,
    file: &Path,
    rules: Rules,
    tokenizer: &Tokenizer,
    color: bool,
) -> Result<String, CorpusError> {
    let head = format!("── {}, {}: ", file.display(), raw.place);
    Ok(match tokenize::row(raw, file, rules, tokenizer)? {
        Err(unfit) => format!("{head}cannot be trained on: {unfit}\n\n"),
        Ok(Tokenized { sequence, truncated }) => {
            let cut = if truncated { ", truncated to data.max_length" } else { "" };
            let (length, trained) = (sequence.ids.len(), sequence.trained_tokens());
            let text = marked(&sequence, tokenizer, if color { GREEN } else { BRACKETS })?;
            format!("{head}{length} tokens, {trained} trained{cut}\n{text}\n\n")
        }
    })
}

/// Returns the text with marks around the trained runs. Each run is decoded as a whole, since one token may be part of
/// a character.
fn marked(sequence: &MaskedSequence, tokenizer: &Tokenizer, marks: (&str, &str)) -> Result<String, TokenizerError> {
    let (mut text, mut begin) = (String::new(), 0);
    for run in sequence.trained.chunk_by(|a, b| a == b) {
        let piece = tokenizer.decode_all(&sequence.ids[begin..begin + run.len()])?;
        begin += run.len();
        text += &if run[0] { format!("{}{piece}{}", marks.0, marks.1) } else { piece };
    }
    Ok(text)
}

fn totals(name: &str, report: &Report) -> String {
    let Report { rows, kept, truncated, skipped, tokens, trained_tokens, longest, from_cache } = report;
    let found = if *from_cache { ", from the cache" } else { "" };
    let mut text = format!(
        "{name}: {kept} of {rows} rows, {tokens} tokens, {trained_tokens} trained, longest {longest}, {truncated} \
         truncated{found}\n"
    );
    let reasons = [
        (skipped.too_long, "longer than data.max_length"),
        (skipped.no_trained_token, "without a token to train on"),
        (skipped.prompt_no_prefix, "without a clear boundary between prompt and completion"),
        (skipped.turns_rewritten, "whose turns the chat template rewrites"),
        (skipped.bad_index, "with an invalid token index"),
    ];
    for (count, reason) in reasons.into_iter().filter(|(count, _)| *count > 0) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  skipped: {count} {reason}");
    }
    text
}
