//! The offline example at a small size, with tiny models of random weights in place of the quickstart's, and what the examples with a
//! model of the hub say without a network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use chat::tokenizer::Tokenizer;
use configs::model::{Device, Dtype, ModelShape};
use serde_json::Value as Json;
use trainer::start;

/// The command that summarizes the users before their choices are scored, without the maximum length.
const SUMMARIZE: [&str; 10] = [
    "summarize",
    "--model",
    "runs/quickstart/models/base",
    "--prompts",
    "examples/offline/prompts",
    "--streaming",
    "--history",
    "runs/offline/import/train.jsonl",
    "--out",
    "runs/offline/summaries.jsonl",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A folder with the examples and configurations of the repository, in which runs are written.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        for name in ["examples", "configs"] {
            symlink(root().join(name), bench.path(name)).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes tiny models where the quickstart leaves its own.
    fn add_models(&self) {
        let logs = fs::read_to_string(root().join("examples/offline/logs/news.tsv")).unwrap();
        let tokenizer = Tokenizer::train(logs.lines(), 400).unwrap();
        let shape = ModelShape {
            hidden_size: 32,
            intermediate_size: 64,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 16,
            init_std: 0.2,
            ..ModelShape::default()
        };
        let model = start::random("tiny", &shape, tokenizer, 5, (Device::Cpu, Dtype::Fp32)).unwrap();
        for name in ["base", "judge", "second_judge"] {
            lm::pretrained::save(&self.path("runs/quickstart/models").join(name), &model).unwrap();
        }
    }

    /// Runs the program without a network; returns standard output, standard error and the exit code.
    fn xplore(&self, arguments: &[&str], set: &[&str]) -> (String, String, i32) {
        let mut command = Command::cargo_bin("xplore").unwrap();
        let command =
            command.current_dir(self.0.path()).args(arguments).args(set.iter().flat_map(|key| ["--set", *key]));
        let output = command.envs([("HF_HUB_OFFLINE", "1"), ("HF_HOME", "cache")]).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code().unwrap())
    }

    /// Runs a command that must succeed; returns standard output and standard error together.
    #[track_caller]
    fn runs(&self, arguments: &[&str], set: &[&str]) -> String {
        let (out, said, code) = self.xplore(arguments, set);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        out + &said
    }

    fn rows(&self, name: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn the_raw_logs_become_models_and_an_evaluation() {
    let bench = Bench::new();
    bench.add_models();
    // The judge of random weights decides at random, so that thresholds of its probabilities would leave nothing.
    let keys = [
        "threads=1",
        "import.test_share=0.7",
        "verifier.mode=forced",
        "prune.thresholds.most_signal=1.0",
        "prune.thresholds.least_probability=0.0",
        "teach.thresholds={target_probability=0.0, most_targets=4, least_targets=2, least_correct=1, retest=0.0}",
    ];
    bench.runs(&["synth", "import", "--config", "examples/offline/synth.toml"], &keys);
    bench.runs(&[&SUMMARIZE[..], &["--max-new-tokens", "8"]].concat(), &[]);
    bench.runs(&["synth", "run", "--config", "examples/offline/synth.toml"], &keys);
    let (train, test) = (bench.rows("runs/offline/import/train.jsonl"), bench.rows("runs/offline/import/test.jsonl"));
    assert_eq!(train.len() + test.len(), 80);
    let first = &train[0]["interactions"][0];
    assert!(first["chosen"].as_str().unwrap().starts_with("Title: "), "{first}");
    // The rows have the wording of the world, without MIND's labels.
    let sft = bench.rows("runs/offline/export/sft/train.jsonl");
    assert!(!sft.is_empty());
    for row in &sft {
        let prompt = row["prompt"][0]["content"].as_str().unwrap();
        assert!(prompt.starts_with("past: ") && prompt.contains("\none + "), "{prompt}");
        assert!(!prompt.contains("Title:") && !prompt.contains("Abstract:"), "{prompt}");
    }
    assert!(!bench.rows("runs/offline/export/rl/train.jsonl").is_empty());
    let users = bench.rows("runs/offline/export/eval/users.jsonl");
    assert_eq!(users.len(), test.len());
    assert!(users.iter().all(|user| user["targets"].as_array().unwrap().len() == 9));

    bench.runs(&["sft", "--config", "examples/offline/sft.toml"], &["threads=1", "train.max_steps=1"]);
    let small = ["threads=1", "train.steps=1", "rollout.users_per_step=2", "rollout.num_generations=2"];
    let short = ["rollout.max_new_tokens=8", "rollout.max_prompt_tokens=1500", "judge.mode=forced"];
    bench.runs(&["rl", "--config", "examples/offline/rl.toml"], &[&small[..], &short].concat());
    let said = bench.runs(
        &["eval", "--config", "examples/offline/eval.toml"],
        &["threads=1", "max_users=2", "sampling.max_new_tokens=8"],
    );
    assert!(["sft", "rl", "training", "second"].iter().all(|name| said.contains(name)), "{said}");
    assert!(bench.path("runs/offline-eval/eval-gains.json").is_file());
    // The models carry the example's wording, so only the judges would be prompted otherwise.
    let manifest = bench.path("runs/offline-sft/checkpoints");
    let step = fs::read_dir(manifest).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    assert!(fs::read_to_string(step.join("prompts/summarize.j2")).unwrap().contains("Title: "));
}

#[test]
fn without_the_quickstart_or_the_summaries_what_is_missing_is_named() {
    let bench = Bench::new();
    bench.runs(&["synth", "import", "--config", "examples/offline/synth.toml"], &[]);
    let (_, said, code) = bench.xplore(&SUMMARIZE, &[]);
    assert!(code == 3 && said.contains("runs/quickstart/models/base"), "{code}: {said}");
    let run = ["synth", "run", "--config", "examples/offline/synth.toml"];
    let (_, said, code) = bench.xplore(&run, &[]);
    assert!(code == 3 && said.contains("runs/offline/summaries.jsonl"), "{code}: {said}");
    let (_, said, code) = bench.xplore(&run, &["signal.summaries="]);
    assert!(code == 3 && said.contains("runs/quickstart/models/judge"), "{code}: {said}");
}

#[test]
fn examples_with_a_model_of_the_hub_name_the_offline_example_without_a_network() {
    let bench = Bench::new();
    let history = ["--history", "examples/histories.jsonl"];
    let summarize = [&["summarize", "--model", "Qwen/Qwen3-0.6B"][..], &history].concat();
    let cases: [(&[&str], &[&str]); 3] = [
        (&["sft", "--config", "configs/examples-sft.toml"], &[]),
        (&["rl", "--config", "configs/examples-rl.toml"], &["lora.start="]),
        (&summarize, &[]),
    ];
    for (arguments, set) in cases {
        let (_, said, code) = bench.xplore(arguments, set);
        assert_eq!(code, 4, "{arguments:?}: {said}");
        assert!(said.contains("Qwen/Qwen3-0.6B") && said.contains("examples/offline needs no network"), "{said}");
    }
    // RL starts from the adapter of SFT.
    let (_, said, code) = bench.xplore(&["rl", "--config", "configs/examples-rl.toml"], &[]);
    assert!(code == 3 && said.contains("runs/examples-sft"), "{code}: {said}");
    // An address that nobody answers.
    let mut command = Command::cargo_bin("xplore").unwrap();
    let command = command.current_dir(bench.0.path()).args(["sft", "--config", "configs/examples-sft.toml"]);
    let output = command.envs([("HF_ENDPOINT", "http://127.0.0.1:1"), ("HF_HOME", "cache")]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("cannot download `Qwen/Qwen3-0.6B`") && said.contains("examples/offline"), "{said}");
}
