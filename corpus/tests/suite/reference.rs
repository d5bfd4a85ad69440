//! Compares tokens and loss masks with TRL's for the same rows (`scripts/reference/sft_rows.py`).

use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use configs::sft::{LossOn, SftData, Truncation, Unusable};
use corpus::MaskedSequence;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::fixtures::{MARKED, open, tokenizer, tokenizer_with, turns, write};

#[derive(Deserialize)]
struct Answer {
    ids: Vec<u32>,
    trained: Vec<bool>,
}

/// The rows, the settings on both sides, and the tokenizer of a case.
struct Case {
    name: &'static str,
    rows: Vec<Json>,
    tokenizer: Tokenizer,
    data: SftData,
    config: Json,
    /// The compression of the Parquet file that holds the rows, if one is used.
    parquet: Option<&'static str>,
}

fn case(name: &'static str, rows: Vec<Json>, config: Json, data: SftData) -> Case {
    Case { name, rows, tokenizer: tokenizer(), data, config, parquet: None }
}

fn ask(job: &Json, folder: &Path) -> Vec<Vec<Answer>> {
    serde_json::from_value(python_reference::ask("sft_rows.py", job, folder)).unwrap()
}

fn prompts_and_completions() -> Vec<Json> {
    let answer = |text: &str| json!([{"role": "assistant", "content": text}]);
    vec![
        json!({"prompt": turns(&["what of space?"]), "completion": answer("likes warm stories")}),
        json!({"prompt": turns(&["a", "b", "日本 reports?"]), "completion": answer("<think>\nlong\n</think>\n\ndry é")}),
        json!({"prompt": [{"role": "system", "content": "be dry"}, {"role": "user", "content": ""}],
               "completion": answer("finance\n\n")}),
    ]
}

fn conversations() -> Vec<Json> {
    let long = turns(&["space?", "warm stories", "finance?", "<think>dry</think>long reports", "日本?", "é"]);
    vec![
        json!({"messages": turns(&["a", " b"])}),
        json!({"messages": long}),
        json!({"messages": turns(&["a", "b", "c"])}),
    ]
}

fn texts() -> Vec<Json> {
    let text = |text: &str| json!({"text": text});
    vec![text("the user likes space"), text("avoids finance<|im_end|>"), text("ünseen 日本\n\n and reports")]
}

fn cases() -> Vec<Case> {
    let plain = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion});
    let strings = vec![
        plain("the user likes", " warm stories"),
        plain("the user avoids\n", "reports<|im_end|>"),
        plain("", "long dry 日本"),
    ];
    let data = SftData::default;
    let all = || SftData { loss_on: LossOn::All, ..data() };
    let assistant = || SftData { loss_on: LossOn::Assistant, ..data() };
    let limit = || SftData { max_length: 6, unusable: Unusable::Skip, ..data() };
    let none = || json!({"max_length": null});
    let cut = |mode: &str| json!({"max_length": 6, "truncation_mode": mode});
    let assistant_only = json!({"max_length": null, "assistant_only_loss": true, "completion_only_loss": false});
    let with_blocks = |case: Case| Case { tokenizer: tokenizer_with(MARKED), ..case };
    let table = |compression, case: Case| Case { parquet: Some(compression), ..case };
    let end = || SftData { truncation: Truncation::KeepEnd, ..limit() };
    vec![
        case("prompt and completion in messages", prompts_and_completions(), none(), data()),
        case("prompt and completion in texts", strings.clone(), none(), data()),
        case(
            "all of prompt and completion",
            strings,
            json!({"max_length": null, "completion_only_loss": false}),
            all(),
        ),
        case("all of conversations", conversations(), none(), all()),
        case("texts", texts(), none(), data()),
        with_blocks(case("the assistant's turns", conversations(), assistant_only.clone(), assistant())),
        with_blocks(case("the assistant's turns, split", prompts_and_completions(), assistant_only, assistant())),
        case("the start of texts", texts(), cut("keep_start"), limit()),
        case("the end of texts", texts(), cut("keep_end"), end()),
        case("the start of conversations", prompts_and_completions(), cut("keep_start"), limit()),
        case("the end of conversations", prompts_and_completions(), cut("keep_end"), end()),
        table("snappy", case("Parquet of messages", conversations(), none(), all())),
        table("zstd", case("Parquet of prompts", prompts_and_completions(), none(), data())),
        table("gzip", case("Parquet of texts", texts(), none(), data())),
        table("lz4", case("Parquet of texts, LZ4", texts(), none(), data())),
    ]
}

/// Returns our sequences for a case whose rows are in `path`.
fn ours(case: &Case, path: PathBuf, folder: &Path) -> Vec<MaskedSequence> {
    let data = SftData { train: path, shuffle: false, ..case.data.clone() };
    match open(&data, &case.tokenizer, folder) {
        Ok(corpus) => corpus.train.epoch(0).into_iter().map(|id| corpus.train.read(id).unwrap()).collect(),
        Err(corpus::CorpusError::Empty { .. }) => Vec::new(),
        Err(e) => panic!("{}: {e}", case.name),
    }
}

#[test]
fn every_form_of_rows_gives_the_tokens_that_trl_trains() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases();
    let (mut asked, mut paths) = (Vec::new(), Vec::new());
    for (i, case) in cases.iter().enumerate() {
        let tokenizer = folder.path().join(format!("tokenizer-{i}"));
        std::fs::create_dir(&tokenizer).unwrap();
        case.tokenizer.save(&tokenizer).unwrap();
        let mut job = json!({"tokenizer": tokenizer, "rows": case.rows, "config": case.config});
        paths.push(match case.parquet {
            None => write(folder.path(), &format!("{i}.jsonl"), &case.rows),
            Some(compression) => {
                let path = folder.path().join(format!("{i}.parquet"));
                job["parquet"] = json!(path);
                job["compression"] = json!(compression);
                path
            }
        });
        asked.push(job);
    }
    let answers = ask(&json!({"cases": asked}), folder.path());
    assert_eq!(answers.len(), cases.len());
    for ((case, path), theirs) in cases.iter().zip(paths).zip(answers) {
        let expected: Vec<MaskedSequence> =
            theirs.into_iter().map(|a| MaskedSequence { ids: a.ids, trained: a.trained }).collect();
        assert_eq!(ours(case, path, folder.path()), expected, "{}", case.name);
        assert!(case.name.starts_with("the start of conv") || !expected.is_empty(), "{}", case.name);
    }
}
