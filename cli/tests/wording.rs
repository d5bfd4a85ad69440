//! Prompt sets: a model carries the wording that it was trained on and is prompted with it. Another wording is a warning.

use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use chat::PromptSet;
use fixtures::policy::{message_rows, model_and_rows};
use fixtures::rows::row;
use lm::ModelPrompts;
use serde_json::{Value as Json, json};

/// A model that was trained on the set `own`, two sets that differ from it in one template each, rows and configs.
struct Bench {
    folder: tempfile::TempDir,
}

const WARNING: &str = "the wording is not the one that";
const OWN: &str = "own {{ past }}:{% for i in interactions %} {{ i.chosen }}{% endfor %}";
const OTHER: &str = "{% for i in interactions %}{{ i.rejected }}, {% endfor %}{{ past }} is another wording";
const JUDGE: &str = "{{ preference }} A {{ item_a }} B {{ item_b }}";
const MODEL: &str = "model = { path = 'model', dtype = 'fp32', device = 'cpu' }";

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: model_and_rows() };
        bench.write_set("own", OWN, JUDGE);
        bench.write_set("other", OTHER, JUDGE);
        bench.write_set("judging", OWN, "B {{ item_b }} A {{ item_a }} {{ preference }}");
        ModelPrompts::new(bench.set("own")).save(&bench.path("model")).unwrap();
        fs::write(bench.path("sft.jsonl"), (0..8).map(|i| row(i) + "\n").collect::<String>()).unwrap();
        let head = "out = 'runs'\nthreads = 1\nmetrics = { tensorboard = false, peak_tflops = 1.0 }";
        let sft = format!("{head}\n{MODEL}\ndata.train = 'sft.jsonl'\ntrain = {{ batch_size = 4, max_steps = 1 }}\n");
        fs::write(bench.path("sft.toml"), sft).unwrap();
        let rollout = "{ users_per_step = 2, num_generations = 2, max_prompt_tokens = 400, max_new_tokens = 8 }";
        let rl =
            format!("{head}\n{MODEL}\njudge.{MODEL}\ndata.train = 'rl.jsonl'\nrollout = {rollout}\ntrain.steps = 1\n");
        fs::write(bench.path("rl.toml"), rl).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_set(&self, name: &str, summarize: &str, judge: &str) {
        fs::create_dir(self.path(name)).unwrap();
        for (file, text) in
            [("summarize.j2", summarize), ("judge.j2", judge), ("history.j2", "{{ interactions|length }}")]
        {
            fs::write(self.path(name).join(file), text).unwrap();
        }
    }

    fn set(&self, name: &str) -> PromptSet {
        PromptSet::new(name, &configs::prompts::sources(self.path(name).to_str().unwrap()).unwrap()).unwrap()
    }

    /// Returns the set as messages name it.
    fn id(&self, name: &str) -> String {
        format!("`{name}` ({})", &self.set(name).hash()[..12])
    }

    /// Runs the program in the folder, and returns standard output and standard error.
    fn run(&self, arguments: &[&str], set: &[&str]) -> (String, String) {
        let mut command = Command::cargo_bin("xplore").unwrap();
        command.current_dir(self.folder.path()).args(arguments);
        let output = command.args(set.iter().flat_map(|value| ["--set", *value])).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?} {set:?}: {said}");
        (String::from_utf8(output.stdout).unwrap(), said)
    }

    /// Runs the program in the folder, which fails, and returns exit status and standard error.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::cargo_bin("xplore").unwrap();
        let output = command.current_dir(self.folder.path()).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// Writes RL rows of messages to messages.jsonl, and the same users with held-out choices to users.jsonl.
    fn write_messages(&self) {
        let rows = message_rows(4);
        chat::jsonl::write(&self.path("messages.jsonl"), &rows).unwrap();
        let user = |row: &chat::RlRow| {
            json!({"uid": row.uid, "messages": row.messages, "targets": row.stage_targets}).to_string() + "\n"
        };
        fs::write(self.path("users.jsonl"), rows.iter().map(user).collect::<String>()).unwrap();
    }

    /// Runs a training of one step; returns the path of its checkpoint and standard error.
    fn train(&self, kind: &str, name: &str, set: &[&str]) -> (String, String) {
        let name_of_run = format!("name={name}");
        let file = format!("{kind}.toml");
        let (_, said) = self.run(&[kind, "--config", &file], &[&[name_of_run.as_str()][..], set].concat());
        (format!("runs/{name}/checkpoints/step-000001"), said)
    }

    fn check(&self, kind: &str, set: &[&str]) -> String {
        self.run(&["config", "check", &format!("{kind}.toml"), "--kind", kind], set).0
    }

    /// Asserts that a model folder carries the set `name`: its templates, and its hash in the manifest.
    #[track_caller]
    fn carries(&self, model: &str, name: &str) {
        let found = ModelPrompts::load(&self.path(model)).unwrap().expect("the folder has prompts");
        assert_eq!(found.set().sources(), self.set(name).sources(), "{model}");
        let text = fs::read_to_string(self.path(model).join("prompts/manifest.json")).unwrap();
        let manifest: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(manifest["hash"].as_str(), Some(self.set(name).hash().as_str()), "{model}: {text}");
    }
}

#[track_caller]
fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
}

#[test]
fn summaries_have_the_wording_that_the_model_carries() {
    let bench = Bench::new();
    let summarize = |more: &[&str]| {
        let arguments = ["summarize", "--model", "model", "--history", "rl.jsonl", "--max-new-tokens", "16"];
        bench.run(&[&arguments[..], more].concat(), &[])
    };
    let (own, said) = summarize(&[]);
    says(&said, &[&format!("--prompts: {}, the wording that model was trained on", bench.id("own"))]);
    let (named, said) = summarize(&["--prompts", "own"]);
    assert_eq!(named, own);
    assert!(!said.contains(WARNING), "{said}");
    let (other, said) = summarize(&["--prompts", "other"]);
    assert_ne!(other, own);
    let differ = format!("summarize.j2 of {} differs from {}", bench.id("other"), bench.id("own"));
    says(
        &said,
        &["warning: --prompts: the wording is not the one that model was trained on", &differ, "omit --prompts"],
    );
}

#[test]
fn checkpoints_carry_the_set_of_their_rows_or_else_that_of_their_model() {
    let bench = Bench::new();
    let (named, said) = bench.train("sft", "named", &["prompts=other"]);
    bench.carries(&named, "other");
    says(&said, &["warning: prompts: the wording is not the one that model was trained on: summarize.j2"]);
    let from = format!("model.path={named}");
    let (inherited, said) = bench.train("sft", "inherited", &[&from]);
    bench.carries(&inherited, "other");
    assert!(!said.contains("warning: prompts"), "{said}");

    let (adapter, _) = bench.train("sft", "adapter", &[&from, "lora.rank=2", "lora.alpha=4"]);
    assert!(bench.path(&adapter).join("adapter_config.json").exists());
    bench.carries(&adapter, "other");
    bench.run(&["export", "--model", &adapter, "--merge", "--out", "merged"], &[]);
    bench.carries("merged", "other");
    bench.run(&["export", "--model", "model", "--dtype", "bf16", "--out", "bf16"], &[]);
    bench.carries("bf16", "own");
    // The base model's set is that of an adapter without one.
    fs::remove_dir_all(bench.path(&adapter).join("prompts")).unwrap();
    bench.run(&["export", "--model", &adapter, "--merge", "--out", "again"], &[]);
    bench.carries("again", "other");

    bench.carries(&bench.train("rl", "rl-inherited", &[&from]).0, "other");
    bench.carries(&bench.train("rl", "rl-named", &[&from, "prompts=judging"]).0, "judging");
    let new = ["model.path=", "model.shape.layers=1", "model.shape.hidden_size=32"];
    let (new, _) = bench.train("sft", "new", &new);
    assert!(bench.path(&new).exists() && !bench.path(&new).join("prompts").exists());
}

#[test]
fn another_wording_is_reported_before_the_run_at_its_start_and_in_its_report() {
    let bench = Bench::new();
    let set = ["prompts=other", "judge.prompts=judging"];
    let policy = format!(
        "prompts: the wording is not the one that model was trained on: summarize.j2 of {} differs from {}",
        bench.id("other"),
        bench.id("own")
    );
    let judge = format!("judge.j2 of {} differs from {}", bench.id("judging"), bench.id("own"));
    let checked = bench.check("rl", &set);
    says(&checked, &[&format!("WARNING      {policy}"), "WARNING      judge.prompts: ", &judge]);
    says(&checked, &["remove `prompts`, or set it to \"\", to take the model's own set"]);
    let (_, said) = bench.train("rl", "differs", &set);
    says(&said, &[&format!("warning: {policy}"), "warning: judge.prompts: ", &judge]);
    let report = |name: &str| {
        bench.run(&["report", &format!("runs/{name}")], &[]);
        fs::read_to_string(bench.path(&format!("runs/{name}/report.html"))).unwrap()
    };
    let page = report("differs");
    says(&page, &["class=\"warning\"", &policy, &judge, &bench.set("own").hash(), &bench.set("other").hash()]);

    let same = bench.check("rl", &[]);
    says(&same, &[&format!("prompts      prompts: {}, the wording that model was trained on", bench.id("own"))]);
    let (first, said) = bench.train("rl", "same", &[]);
    let page = report("same");
    for text in [&same, &said, &page] {
        assert!(!text.contains(WARNING), "{text}");
    }
    // A resumed run is compared with its checkpoint.
    let resumed = ["rl", "--config", "rl.toml", "--resume"];
    let (_, said) = bench.run(&resumed, &["name=same", "prompts=other", "train.steps=2"]);
    says(&said, &[&format!("warning: prompts: the wording is not the one that {first} was trained on")]);

    // Nothing names a set, but the templates were changed after the training.
    fs::write(bench.path("model/prompts/summarize.j2"), OTHER).unwrap();
    says(&bench.check("rl", &[]), &["WARNING", "summarize.j2 of", "restore the templates in model/prompts"]);
    says(
        &bench.check("rl", &["model.path=nowhere", "data.train=none.jsonl"]),
        &["prompts      not checked: `nowhere`: no such folder"],
    );
}

#[test]
fn the_wording_of_rows_and_of_validation_is_compared_too() {
    let bench = Bench::new();
    let checked = bench.check("sft", &["prompts=other"]);
    says(&checked, &["WARNING      prompts: ", "summarize.j2 of"]);
    let validation = |set: &str| {
        let summaries = format!("validation.summaries={{users='rl.jsonl'{set}, judge={{{MODEL}}}}}");
        bench.check("rl", &["validation.every=1", &summaries])
    };
    let own = validation("");
    says(&own, &["validation.summaries.prompts: `own`", "validation.summaries.judge.prompts: `own`"]);
    assert!(!own.contains("WARNING"), "{own}");
    let other = "WARNING      validation.summaries.prompts: the wording is not the one that the model in training was trained on";
    says(&validation(", prompts='other'"), &[other]);
}

#[test]
fn each_model_of_an_evaluation_has_its_own_wording() {
    let bench = Bench::new();
    bench.run(&["export", "--model", "model", "--out", "second"], &[]);
    ModelPrompts::new(bench.set("other")).save(&bench.path("second")).unwrap();
    let model = |name: &str, path: &str| format!("[[models]]\nname = '{name}'\n{}\n", MODEL.replace("'model'", path));
    let text = format!(
        "out = 'runs'\nthreads = 1\nusers = 'rl.jsonl'\nsettings = ['direct', 'full']\nsampling.max_new_tokens = 8\n{}{}\
         [[judges]]\nname = 'judge'\njudge.{MODEL}\n",
        model("sft", "'model'"),
        model("rl", "'second'")
    );
    fs::write(bench.path("eval.toml"), text).unwrap();
    let sets = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(bench.path(&format!("runs/{name}/prompts.json"))).unwrap();
        let uses: Vec<Json> = serde_json::from_str(&text).unwrap();
        uses.iter().map(|used| used["used"]["hash"].as_str().unwrap().to_owned()).collect()
    };
    let hash = |name: &str| bench.set(name).hash();
    bench.run(&["eval", "--config", "eval.toml"], &["name=own"]);
    assert_eq!(sets("own"), [hash("own"), hash("other"), hash("own")]);
    let named = ["name=named", "prompts=other"];
    let (_, said) = bench.run(&["eval", "--config", "eval.toml"], &named);
    assert_eq!(sets("named"), [hash("other"), hash("other"), hash("own")]);
    says(&said, &["warning: prompts: the wording is not the one that model was trained on"]);
    assert!(!said.contains("the one that second was trained on"), "{said}");
    says(&bench.check("eval", &named), &["WARNING      prompts: the wording is not the one that model"]);
}

#[test]
fn a_set_without_templates_for_messages_is_refused_with_the_fix() {
    let bench = Bench::new();
    bench.write_messages();
    let missing = |arguments: &[&str], file: &str| {
        let (code, said) = bench.fails(arguments);
        assert_eq!(code, Some(2), "{said}");
        says(
            &said,
            &[&format!("prompt set `own` has no template `{file}`"), "a history of messages", "such as `plain`"],
        );
    };
    missing(&["summarize", "--model", "model", "--history", "users.jsonl"], "summarize_messages.j2");
    let render = ["prompts", "render", "--prompts", "own", "--kind", "eval", "--input", "row.jsonl"];
    let row =
        json!({"setting": "direct", "messages": [{"role": "user", "content": "q"}], "item_a": "x", "item_b": "y"});
    fs::write(bench.path("row.jsonl"), row.to_string()).unwrap();
    missing(&render, "history_messages.j2");
}

#[test]
fn a_template_that_is_missing_for_some_users_ends_a_run_before_it_begins() {
    let bench = Bench::new();
    bench.write_messages();
    let text = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    fs::write(bench.path("mixed.jsonl"), text("rl.jsonl") + &text("messages.jsonl")).unwrap();
    fs::write(bench.path("mixed-users.jsonl"), text("rl.jsonl") + &text("users.jsonl")).unwrap();
    let refused = |arguments: &[&str], set: &[&str], file: &str| {
        let set = set.iter().flat_map(|value| ["--set", *value]);
        let (code, said) = bench.fails(&arguments.iter().copied().chain(set).collect::<Vec<_>>());
        assert_eq!(code, Some(2), "{said}");
        says(&said, &[&format!("prompt set `own` has no template `{file}`")]);
    };
    let rl = ["rl", "--config", "rl.toml"];
    let mixed = ["name=mixed", "data.train=mixed.jsonl", "log.rollouts_every=1"];
    refused(&rl, &mixed, "summarize_messages.j2");
    refused(&[&rl[..], &["--dry-run"]].concat(), &mixed, "summarize_messages.j2");
    refused(&["config", "check", "rl.toml", "--kind", "rl"], &mixed, "summarize_messages.j2");
    let summaries = format!("validation.summaries={{users='users.jsonl', judge={{{MODEL}}}}}");
    let validated = ["name=validated", "validation.every=1", "log.rollouts_every=1", summaries.as_str()];
    refused(&rl, &validated, "summarize_messages.j2");
    for name in ["mixed", "validated"] {
        for folder in ["checkpoints", "rollouts"] {
            assert!(!bench.path(&format!("runs/{name}/{folder}")).exists(), "{name}/{folder}");
        }
    }

    let eval = format!(
        "out = 'runs'\nthreads = 1\nusers = 'mixed-users.jsonl'\nsampling.max_new_tokens = 8\n\
         [[models]]\nname = 'policy'\n{MODEL}\n[[judges]]\nname = 'judge'\njudge.{MODEL}\n"
    );
    fs::write(bench.path("eval.toml"), eval).unwrap();
    let eval = ["eval", "--config", "eval.toml"];
    refused(&eval, &["settings=['full']"], "summarize_messages.j2");
    refused(&eval, &["settings=['direct']", "prompts=own"], "history_messages.j2");
    let explain = ["explain", "--config", "eval.toml", "--model", "policy"];
    refused(&explain, &[], "summarize_messages.j2");
}

#[test]
fn histories_of_messages_are_summarized_evaluated_explained_and_trained_on() {
    let bench = Bench::new();
    bench.write_messages();
    let summarize = ["summarize", "--model", "model", "--history", "users.jsonl", "--prompts", "compact"];
    let summaries = |more: &[&str]| {
        let arguments = [&summarize[..], &["--max-new-tokens", "8"], more].concat();
        let lines: Vec<Json> =
            bench.run(&arguments, &[]).0.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines.iter().map(|line| line["uid"].as_str().unwrap()).collect::<Vec<_>>(),
            ["m0", "m1", "m2", "m3"]
        );
        lines
    };
    assert_ne!(summaries(&["--streaming"]), summaries(&[]));
    bench.run(&[&summarize[..], &["--max-new-tokens", "8", "--out", "summaries.jsonl"]].concat(), &[]);

    let eval = format!(
        "out = 'runs'\nthreads = 1\nprompts = 'compact'\nusers = 'users.jsonl'\nsampling.max_new_tokens = 8\n\
         [[models]]\nname = 'policy'\n{MODEL}\n[[judges]]\nname = 'judge'\njudge.prompts = 'compact'\njudge.{MODEL}\n"
    );
    fs::write(bench.path("eval.toml"), eval).unwrap();
    bench.run(&["eval", "--config", "eval.toml"], &[]);
    let rows: Vec<Json> =
        serde_json::from_str(&fs::read_to_string(bench.path("runs/eval/eval.json")).unwrap()).unwrap();
    for (model, setting) in [("none", "direct"), ("policy", "full"), ("policy", "streaming")] {
        let row = rows.iter().find(|row| row["model"] == model && row["setting"] == setting);
        let row = row.unwrap_or_else(|| panic!("no row for {model}, {setting}"));
        assert_eq!((row["users"].as_u64(), row["targets_judged"].as_u64()), (Some(4), Some(8)), "{row}");
    }
    let (explained, _) =
        bench.run(&["explain", "--config", "eval.toml", "--summaries", "summaries.jsonl", "--json"], &[]);
    assert_eq!(serde_json::from_str::<Vec<Json>>(&explained).unwrap().len(), 4);

    let set = ["data.train=messages.jsonl", "prompts=compact", "judge.prompts=compact", "log.rollouts_every=1"];
    let (shown, _) = bench.run(&["rl", "--config", "rl.toml", "--dry-run"], &set);
    // Of 6 to 9 messages, the first stage reads 3.
    says(&shown, &["3.0 messages (mean)", "4.5 messages (mean)"]);
    let judge = format!("judge={{prompts='compact', {MODEL}}}");
    let summaries = format!("validation.summaries={{users='users.jsonl', sampling={{max_new_tokens=8}}, {judge}}}");
    let (checkpoint, _) =
        bench.train("rl", "messages", &[&set[..], &["validation.every=1", summaries.as_str()]].concat());
    let metrics = fs::read_to_string(bench.path("runs/messages/metrics.jsonl")).unwrap();
    let last: Json = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let accuracy = last["validation/accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy), "{last}");
    assert!(bench.path(&checkpoint).join("prompts/summarize_messages.j2").exists());
    let rollouts = fs::read_to_string(bench.path("runs/messages/rollouts/step-000001.jsonl")).unwrap();
    // Two users, two stages, two responses.
    assert_eq!(rollouts.lines().count(), 8);
    says(&rollouts, &["user: ", "assistant: "]);
}
