//! Programs in Python, and responses for them to score.

use std::path::{Path, PathBuf};

use configs::rl::{ExternalConfig, ExternalSource};
use rewards::{ExternalScores, ExternalTerm, RewardError, RewardResponse};
use serde_json::{Value, json};

/// The beginning of a program: it answers the handshake.
const BEGIN: &str = "import json, os, sys, time\n\
                     def say(answer):\n    print(json.dumps(answer), flush=True)\n\
                     def ones(request):\n    return [1.0] * len(request['responses'])\n\
                     json.loads(sys.stdin.readline())\n\
                     say({'xplore_reward': 1})\n";

/// A folder for programs.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the command of a program whose text is `text`.
    pub fn command(&self, text: &str) -> Vec<String> {
        let path = self.path("term.py");
        std::fs::write(&path, text).unwrap();
        vec![python(), path.display().to_string()]
    }

    /// Returns the configuration of a term that runs `body` after the handshake; `FOLDER` stands for this folder.
    pub fn term(&self, body: &str) -> ExternalConfig {
        let body = body.replace("FOLDER", &format!("{:?}", self.folder.path().display().to_string()));
        ExternalConfig::new(ExternalSource::Command(self.command(&format!("{BEGIN}{body}"))))
    }

    /// Returns the configuration of a term that runs `body` for each `request`.
    pub fn term_of_requests(&self, body: &str) -> ExternalConfig {
        let body = body.replace('\n', "\n    ");
        self.term(&format!("for line in sys.stdin:\n    request = json.loads(line)\n    {body}\n"))
    }
}

/// Returns the Python that runs the programs.
pub fn python() -> String {
    python_reference::any_python().display().to_string()
}

/// Returns the folder of the example.
pub fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/external_reward")
}

/// Returns the term `mine`.
pub fn mine(config: ExternalConfig) -> ExternalTerm {
    mine_with(json!({}), config)
}

/// Returns the term `mine` with parameters.
pub fn mine_with(params: Value, config: ExternalConfig) -> ExternalTerm {
    ExternalTerm::new("mine", &params, config)
}

/// Returns the response of each of `texts`, in groups of `of_group`; a text is the user's ID too.
pub fn responses(texts: &[String], of_group: usize) -> Vec<RewardResponse<'_>> {
    let responses = texts.iter().enumerate().map(|(index, text)| RewardResponse {
        text,
        tokens: text.len(),
        token_limit: 100,
        group: index / of_group,
        uid: text,
        well_formed: text.starts_with("<think>"),
        ..RewardResponse::default()
    });
    responses.collect()
}

/// Returns `count` well-formed texts with summaries `s0`, `s1`, and so on.
pub fn texts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("<think>t</think>s{i}")).collect()
}

/// Asks a term about `count` responses in groups of 2.
pub fn ask(term: &ExternalTerm, step: u64, count: usize) -> Result<ExternalScores, RewardError> {
    term.ask(step, &responses(&texts(count), 2))
}

/// Returns a metric.
pub fn metric(scores: &ExternalScores, key: &str) -> Option<f64> {
    scores.metrics.iter().find(|(known, _)| known == key).map(|(_, value)| *value)
}

/// Asserts that `text` contains all of `words`.
#[track_caller]
pub fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}
