//! The full pipeline at a small size: it runs, writes the documented files, loads in its own commands, and is reproducible.

mod serving;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

use crate::serving::serve;

/// Environment variable with the API key of the served judge.
const KEY: &str = "XPLORE_TEST_KEY";

fn xplore(arguments: &[&str]) -> String {
    xplore_in(&[], arguments)
}

fn xplore_in(environment: &[(&str, &Path)], arguments: &[&str]) -> String {
    let mut command = Command::cargo_bin("xplore").unwrap();
    let output = command.args(arguments).env(KEY, "secret").envs(environment.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn quickstart(out: &Path, seed: &str, environment: &[(&str, &Path)]) {
    xplore_in(environment, &["quickstart", "--tiny", "--out", out.to_str().unwrap(), "--seed", seed]);
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let untimed = |line: &str| {
        let mut object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        // Measurements of the machine differ from run to run.
        let of_machine = ["time/", "memory/", "mfu", "tflops_per_second", "tokens_per_second/", "judgments_per_second"];
        object.retain(|key, _| !of_machine.iter().any(|begin| key.starts_with(begin)));
        Value::Object(object)
    };
    let mut lines: Vec<Value> = text.lines().map(untimed).collect();
    // Judges and base model train concurrently, and each appends its own lines.
    lines.sort_by_key(|line| line["phase"].to_string());
    lines
}

/// Builds a library that, when preloaded, makes every call of MKL's vector math as wrong as a call that loses the race for the
/// first one.
fn wrong_vector_math(folder: &Path) -> PathBuf {
    let library = folder.join("wrong_cpu.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vector_math/wrong_cpu.c");
    let built = std::process::Command::new("c++")
        .args(["-x", "c", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    library
}

#[test]
fn the_quickstart_leaves_a_whole_run_and_the_same_seed_gives_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let [first, again, other] = ["first", "again", "other"].map(|name| folder.path().join(name));
    quickstart(&first, "5", &[]);
    quickstart(&again, "5", &[("LD_PRELOAD", &wrong_vector_math(folder.path()))]);
    quickstart(&other, "6", &[]);
    assert_eq!(metrics(&first), metrics(&again));
    assert_ne!(metrics(&first), metrics(&other));

    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(first.join("eval.json")).unwrap()).unwrap();
    let has = |model: &str, setting: &str, targets: &str, judge: &str| {
        rows.iter()
            .any(|r| r["model"] == model && r["setting"] == setting && r["targets"] == targets && r["judge"] == judge)
    };
    for judge in ["training", "second"] {
        for targets in ["in_domain", "transfer"] {
            for (model, setting) in [
                ("none", "direct"),
                ("none", "full"),
                ("random", "full"),
                ("oracle", "full"),
                ("sft", "full"),
                ("sft", "streaming"),
                ("rl", "full"),
                ("rl", "streaming"),
            ] {
                assert!(has(model, setting, targets, judge), "{model} {setting} {targets} {judge}");
            }
        }
    }
    let judged = |targets: &str| rows.iter().find(|r| r["targets"] == targets).unwrap()["targets_judged"].as_u64();
    // Four users: three choices in their own domain, one choice in each of the two other domains.
    assert_eq!((judged("in_domain"), judged("transfer")), (Some(12), Some(8)));
    let orders = |config: &str, orders: &str| {
        let text = fs::read_to_string(first.join("configs").join(config)).unwrap();
        text.matches(&format!("orders = \"{orders}\"")).count()
    };
    assert_eq!((orders("rl.toml", "both"), orders("eval.toml", "both"), orders("eval.toml", "one")), (1, 1, 1));
    let count = |file: &str| fs::read_to_string(first.join("data").join(file)).unwrap().lines().count();
    assert_eq!((count("judge.jsonl"), count("second_judge.jsonl"), count("reading.jsonl")), (640, 480, 640));
    let rl_rows = fs::read_to_string(first.join("data/rl.jsonl")).unwrap();
    let further =
        rl_rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["targets"].as_array().unwrap().len());
    assert!(further.clone().count() > 0 && further.into_iter().all(|targets| targets == 5));
    for file in ["report.html", "figure.svg", "examples.json", "eval-gains.json", "config.toml", "data/rl.jsonl"] {
        assert!(first.join(file).exists(), "{file}");
    }
    for step in ["rollouts/step-000001.jsonl", "rollouts/step-000002.jsonl"] {
        assert!(first.join(step).exists(), "{step}");
    }
    for model in ["judge", "second_judge", "base", "sft", "rl"] {
        let manifest = fs::read_to_string(first.join("models").join(model).join("prompts/manifest.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&manifest).unwrap()["name"], "compact", "{model}");
    }
    assert!(!fs::read_to_string(first.join("report.html")).unwrap().contains("class=\"warning\""));
    commands_run_on_what_the_quickstart_left(&first);
}

/// Checks the other functions of `rl`: dry run, adapters, resuming, replaying.
fn rl_shows_goes_on_and_replays(run: &Path, rl: &str) {
    let shown = xplore(&["rl", "--config", rl, "--dry-run", "--set", "rollout.max_new_tokens=16"]);
    for words in ["stage 1", "stage 2", "per step", "mini-batches", "memory", "prompt of", "response (", "reward"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let out = format!("out={}", run.join("adapted").display());
    // The quickstart's Muon requires full matrices, not adapters.
    let lora = ["optimizer.kind=adamw", "lora.rank=2", "lora.alpha=4", "checkpoint.every=1"];
    let mut arguments = vec!["rl", "--config", rl, "--set", &out, "--set", "train.steps=1"];
    arguments.extend(lora.iter().flat_map(|value| ["--set", value]));
    xplore(&arguments);
    let folder = run.join("adapted/rl");
    assert!(folder.join("checkpoints/step-000001/adapter_model.safetensors").exists());
    let events = |name: &str| name.starts_with("events.out.tfevents");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.into_iter().any(|name| events(&name)));
    // A new run of the same name would mix its checkpoints with the existing ones.
    let again = Command::cargo_bin("xplore").unwrap().args(&arguments).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("belongs to an earlier run; resume it with --resume"));
    arguments[6] = "train.steps=2";
    arguments.push("--resume");
    xplore(&arguments);
    assert_eq!(fs::read_to_string(folder.join("metrics.jsonl")).unwrap().lines().count(), 2);
    assert!(folder.join("checkpoints/step-000002/trainer/state.json").exists());

    let at = run.display().to_string();
    let replayed = |set: &[&str]| -> Value {
        let mut arguments = vec!["replay", "--run", &at, "--step", "2", "--json"];
        arguments.extend(set);
        serde_json::from_str(&xplore(&arguments)).unwrap()
    };
    let same = replayed(&[]);
    for update in same["updates"].as_array().unwrap() {
        assert_eq!(update["loss"].as_f64().map(f64::to_bits), update["recorded_loss"].as_f64().map(f64::to_bits));
    }
    let other = replayed(&["--set", "algorithm.aggregation=sequence_mean_token_sum"]);
    assert_ne!(other["updates"][0]["loss"], same["updates"][0]["loss"]);
    assert!(xplore(&["replay", "--run", &at, "--step", "2"]).contains("recorded loss"));
    for (set, words) in
        [("rollout.num_generations=9", "other samples or updates"), ("algorithm.kl.coefficient=1.0", "no reference")]
    {
        let refused =
            Command::cargo_bin("xplore").unwrap().args(["replay", "--run", &at, "--step", "2", "--set", set]).output();
        let said = String::from_utf8(refused.unwrap().stderr).unwrap();
        assert!(said.contains(words), "{set}: {said}");
    }
}

fn commands_run_on_what_the_quickstart_left(run: &Path) {
    let at = |name: &str| run.join(name).display().to_string();
    let out = format!("out={}", at("later"));
    let rl = at("configs/rl.toml");
    xplore(&["rl", "--config", &rl, "--set", &out, "--set", "train.steps=1"]);
    assert!(run.join("later/rl/checkpoints/step-000001/model.safetensors").exists());
    xplore(&["sft", "--config", &at("configs/sft.toml"), "--set", &out, "--set", "train.max_steps=1"]);
    assert!(run.join("later/sft/checkpoints/step-000001/config.json").exists());
    xplore(&["eval", "--config", &at("configs/eval.toml"), "--set", &out, "--set", "max_users=2"]);
    assert!(run.join("later").read_dir().unwrap().count() >= 3);
    assert!(xplore(&["config", "check", &rl, "--kind", "rl"]).contains("mini-batches"));
    rl_shows_goes_on_and_replays(run, &rl);
    let shown = xplore(&["config", "show", &rl, "--kind", "rl", "--set", "rollout.num_generations=3"]);
    assert!(shown.contains("num_generations = 3"), "{shown}");
    xplore(&["report", run.to_str().unwrap(), "--out", &at("again.html")]);

    a_judge_may_be_elsewhere(run);

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let histories = root.join("examples/histories.jsonl");
    for mode in [None, Some("--streaming")] {
        let mut arguments = vec!["summarize", "--max-new-tokens", "32"];
        let model = at("models/rl");
        arguments.extend(["--model", &model, "--history", histories.to_str().unwrap()]);
        arguments.extend(mode);
        let lines = xplore(&arguments);
        // The model carries the wording of its training.
        arguments.extend(["--prompts", "compact"]);
        assert_eq!(lines, xplore(&arguments));
        let users = fs::read_to_string(&histories).unwrap().lines().count();
        assert_eq!(lines.lines().count(), users);
        assert!(lines.lines().all(|l| serde_json::from_str::<Value>(l).unwrap()["uid"].is_string()));
    }
}

/// Asserts that a judge in this process and the same judge behind an endpoint return the same verdicts, and that the journal
/// returns them again when the server has stopped.
fn a_judge_may_be_elsewhere(run: &Path) {
    let at = |name: &str| run.join(name).display().to_string();
    let config = |judge: &str| {
        let head =
            format!("users = '{}'\nmax_users = 2\nsettings = ['full']\nprompts = 'compact'\n", at("data/users.jsonl"));
        let model = format!("[[models]]\nname = 'rl'\nmodel.path = '{}'\nmodel.dtype = 'fp32'\n", at("models/rl"));
        format!(
            "{head}sampling.max_new_tokens = 24\n{model}[[judges]]\nname = 'judge'\njudge.prompts = 'compact'\n\
                 judge.mode = 'sampled'\njudge.temperature = 0\njudge.max_new_tokens = 8\n{judge}\n"
        )
    };
    let evaluate = |name: &str, judge: &str| -> Value {
        let file = run.join(format!("{name}.toml"));
        fs::write(&file, config(judge)).unwrap();
        let out = format!("out={}", at(name));
        xplore(&["eval", "--config", file.to_str().unwrap(), "--set", &out]);
        let folder = run.join(name).read_dir().unwrap().next().unwrap().unwrap().path();
        serde_json::from_str(&fs::read_to_string(folder.join("eval.json")).unwrap()).unwrap()
    };
    let here = evaluate("here", &format!("judge.model.path = '{}'\njudge.model.dtype = 'fp32'", at("models/judge")));
    let server = serve(&run.join("models/judge"), &["--api-key", "secret"]);
    let endpoint = format!(
        "judge.endpoint.url = '{}'\njudge.endpoint.model = 'judge'\njudge.endpoint.journal = '{}'\n\
         judge.endpoint.retries = 0\njudge.endpoint.api_key_env = '{KEY}'",
        server.url,
        at("journal.jsonl")
    );
    let there = evaluate("there", &endpoint);
    assert_eq!(here, there);
    assert!(here.as_array().unwrap().iter().any(|row| row["no_answer"].as_f64() < Some(1.0)), "no answer: {here}");
    drop(server);
    assert_eq!(there, evaluate("again", &endpoint), "answers in the journal are not asked for again");
}
