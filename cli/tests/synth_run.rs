//! `xplore synth`: a small pipeline from raw files in MIND's layout to SFT and RL rows, with a scripted teacher and verifier.

mod scripted;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use assert_cmd::Command;
use serde_json::Value as Json;

use crate::scripted::Scripted;

/// Number of news about opera. Every user clicks all of them, and none of the others.
const OPERA: usize = 12;
const USERS: usize = 8;
const STEPS: [&str; 5] = ["import", "signal", "prune", "teach", "export"];

/// A folder with raw files and the configuration of a pipeline, and the server of its models.
struct Bench {
    folder: tempfile::TempDir,
    server: Scripted,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap(), server: Scripted::start() };
        let topic = |n: usize| if n < OPERA { "opera" } else { "tennis" };
        let news = |n: usize| format!("N{n}\tnews\tlocal\tA night of {} {n}\tSeen in town.\t\t[]\t[]\n", topic(n));
        bench.write("raw/news.tsv", &(0..40).map(news).collect::<String>());
        let impressions = |user: usize| {
            let read: Vec<String> = (0..10).map(|i| format!("N{}", (user + i) % 10)).collect();
            let line = |clicked: usize, shown: [usize; 2]| {
                let (time, read) = ("11/15/2019 8:55:22 AM", read.join(" "));
                format!("{clicked}\tU{user}\t{time}\t{read}\tN{}-0 N{clicked}-1 N{}-0\n", shown[0], shown[1])
            };
            line(10, [12 + user, 25]) + &line(11, [24, 28 + user])
        };
        bench.write("raw/behaviors.tsv", &(0..USERS).map(impressions).collect::<String>());
        let endpoint = |model: &str| {
            let url = &bench.server.url;
            format!("[{model}.endpoint]\nurl = '{url}'\nmodel = '{model}'\nconcurrency = 2\nretries = 0\n")
        };
        let text = format!(
            "name = 'news'\nthreads = 1\n[import]\nformat = 'mind'\ninput = ['raw']\ntest_share = 0.25\n[signal]\n\
             by = 'judge'\n[prune.thresholds]\nmost_signal = 1.0\nband_width = 1.0\nleast_window = 2\n[teach]\n\
             users_per_batch = 3\n[teach.thresholds]\nleast_targets = 2\nleast_correct = 1\n{}[verifier]\n\
             prompts = 'plain'\n{}",
            endpoint("teacher"),
            endpoint("verifier")
        );
        bench.write("synth.toml", &text);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn rows(&self, name: &str) -> Vec<Json> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs the program; returns standard output, standard error and the exit code.
    fn xplore(&self, arguments: &[&str]) -> (String, String, i32) {
        let mut command = Command::cargo_bin("xplore").unwrap();
        let output = command.current_dir(self.folder.path()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code().unwrap())
    }

    /// Runs a step with the configuration and `more`; returns standard error.
    #[track_caller]
    fn synth(&self, step: &str, more: &[&str]) -> String {
        let (_, said, code) = self.xplore(&[&["synth", step, "--config", "synth.toml"][..], more].concat());
        assert_eq!(code, 0, "{step} {more:?}: {said}");
        said
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let (_, said, exit) = self.xplore(arguments);
        assert_eq!(exit, code, "{arguments:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} in {said}");
    }
}

/// Returns the steps that were skipped.
fn skipped(said: &str) -> Vec<&'static str> {
    STEPS.into_iter().filter(|step| said.contains(&format!("{step}: skipped, already finished"))).collect()
}

fn uids(rows: &[Json]) -> HashSet<&str> {
    rows.iter().map(|row| row["uid"].as_str().unwrap()).collect()
}

#[test]
fn raw_logs_become_both_sets_and_a_finished_pipeline_asks_nothing() {
    let bench = Bench::new();
    assert_eq!(skipped(&bench.synth("run", &[])), [""; 0]);
    let (train, test) = (bench.rows("runs/news/import/train.jsonl"), bench.rows("runs/news/import/test.jsonl"));
    assert_eq!(train.len() + test.len(), USERS);
    assert!(!train.is_empty() && uids(&train).is_disjoint(&uids(&test)));
    for user in &train {
        let interactions = user["interactions"].as_array().unwrap();
        assert_eq!(interactions.len(), OPERA);
        assert!(interactions.iter().all(|choice| choice["chosen"].as_str().unwrap().contains("opera")));
    }
    // Knowing the history raises the probability from 0.6 to 0.95, except where nothing was read yet.
    for row in bench.rows("runs/news/signal/scored.jsonl") {
        let signals = row["signals"].as_array().unwrap();
        let of = |record: &Json| record["signal"].as_f64().unwrap();
        assert!(of(&signals[0]).abs() < 1e-6, "{row}");
        assert!(signals.iter().any(|record| (of(record) - (0.95_f64 / 0.6).ln()).abs() < 1e-4), "{row}");
    }
    let rl = bench.rows("runs/news/prune/rl.jsonl");
    assert_eq!(uids(&rl), uids(&train));
    assert!(rl.iter().all(|row| row["mid_position"].as_u64() >= Some(2)));
    let sft = bench.rows("runs/news/teach/sft.jsonl");
    assert_eq!(sft.len(), 2 * train.len());
    let summary = "<think>\nOpera each time.\n</think>\n\nLikes opera above all sports.";
    assert!(sft.iter().all(|row| row["completion"][0]["content"] == summary), "{}", sft[0]);
    for file in ["config.toml", "import/card.json", "prune/report.json", "teach/report.json", "export/README.md"] {
        assert!(bench.path("runs/news").join(file).exists(), "{file}");
    }
    for set in ["sft", "rl"] {
        let folder = bench.path("runs/news/export").join(set);
        assert!(folder.join("train.jsonl").exists() && folder.join("train.parquet").exists(), "{set}");
    }

    let asked = bench.server.asked("teacher").len() + bench.server.asked("verifier").len();
    assert!(asked > 0);
    assert_eq!(skipped(&bench.synth("run", &[])), STEPS);
    assert_eq!(bench.server.asked("teacher").len() + bench.server.asked("verifier").len(), asked);

    // A changed section runs that step again, and those that read what it wrote. The address of a model changes nothing.
    let before = bench.read("runs/news/prune/rl.jsonl");
    let said = bench.synth("run", &["--set", "prune.thresholds.least_window=4", "--set", "teach.users_per_batch=1"]);
    assert_eq!(skipped(&said), ["import", "signal", "teach"]);
    assert_ne!(bench.read("runs/news/prune/rl.jsonl"), before);
    let said = bench.synth("run", &[]);
    assert_eq!(skipped(&said), ["import", "signal", "teach"]);
    assert_eq!(bench.read("runs/news/prune/rl.jsonl"), before);

    // A lost or edited output is made again; --force makes all again.
    fs::write(bench.path("runs/news/teach/sft.jsonl"), "").unwrap();
    let teacher = bench.server.asked("teacher").len();
    let said = bench.synth("run", &[]);
    assert!(skipped(&said).starts_with(&["import", "signal", "prune"]) && !skipped(&said).contains(&"teach"), "{said}");
    assert_eq!(bench.rows("runs/news/teach/sft.jsonl"), sft);
    assert_eq!(skipped(&bench.synth("prune", &["--force"])), [""; 0]);
    assert_eq!(skipped(&bench.synth("run", &["--force"])), [""; 0]);
    assert_eq!(bench.rows("runs/news/teach/sft.jsonl"), sft);
    assert_eq!(bench.server.asked("teacher").len(), teacher);
}

#[test]
fn an_interrupted_pipeline_continues() {
    let (whole, cut) = (Bench::new(), Bench::new());
    whole.synth("run", &[]);
    cut.server.refuse_after(7);
    let (_, said, code) = cut.xplore(&["synth", "run", "--config", "synth.toml"]);
    assert!(code != 0 && said.contains("the teacher has left"), "{said}");
    assert!(!cut.path("runs/news/teach/stamp.json").exists() && !cut.path("runs/news/export").exists());
    cut.server.refuse_after(usize::MAX);
    let signal = cut.server.asked("verifier").len();
    assert_eq!(skipped(&cut.synth("run", &[])), ["import", "signal", "prune"]);
    assert!(cut.server.asked("verifier").len() > signal);
    // The card has no times, and the same stamps.
    for file in
        ["prune/rl.jsonl", "teach/sft.jsonl", "export/sft/train.jsonl", "export/rl/train.jsonl", "export/README.md"]
    {
        let file = format!("runs/news/{file}");
        assert_eq!(cut.read(&file), whole.read(&file), "{file}");
    }
    let answered: Vec<String> =
        cut.server.asked("teacher").into_iter().filter(|asked| asked.answered).map(|asked| asked.body).collect();
    let different: HashSet<&String> = answered.iter().collect();
    assert_eq!(different.len(), answered.len(), "an answered request was sent again");
    assert_eq!(answered.len(), whole.server.asked("teacher").len());
}

#[test]
fn a_signal_that_was_cut_off_asks_only_for_what_has_no_answer() {
    let (whole, cut) = (Bench::new(), Bench::new());
    for bench in [&whole, &cut] {
        bench.synth("import", &[]);
    }
    whole.synth("signal", &[]);
    cut.server.refuse_verifier_after(9);
    let (_, said, code) = cut.xplore(&["synth", "signal", "--config", "synth.toml"]);
    assert!(code != 0 && said.contains("the verifier has left"), "{said}");
    assert!(!cut.path("runs/news/signal/scored.jsonl").exists());
    cut.server.refuse_verifier_after(usize::MAX);
    cut.synth("signal", &[]);
    assert_eq!(cut.read("runs/news/signal/scored.jsonl"), whole.read("runs/news/signal/scored.jsonl"));
    let answered: Vec<String> =
        cut.server.asked("verifier").into_iter().filter(|asked| asked.answered).map(|asked| asked.body).collect();
    let different: HashSet<&String> = answered.iter().collect();
    assert_eq!(different.len(), answered.len(), "an answered question was asked again");
    // Also if the step is forced to run again.
    cut.synth("signal", &["--force"]);
    assert_eq!(cut.server.asked("verifier").iter().filter(|asked| asked.answered).count(), answered.len());
}

#[test]
fn a_folder_is_no_file_of_rows() {
    let bench = Bench::new();
    bench.synth("import", &[]);
    for step in ["signal", "prune", "teach"] {
        let words = ["import", "is a folder"];
        bench.fails(&["synth", step, "--config", "synth.toml", "--input", "runs/news/import"], 3, &words);
    }
}

#[test]
fn each_key_of_the_pipeline_has_an_effect() {
    let bench = Bench::new();
    let set = |keys: &[&str]| -> Vec<String> { keys.iter().flat_map(|key| ["--set".into(), (*key).into()]).collect() };
    let run = |keys: &[&str]| {
        let keys = set(keys);
        bench.synth("run", &keys.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // The steps are run in their own order.
    run(&["name=some", "out=there", "steps=['signal', 'import']"]);
    assert!(bench.path("there/some/signal/scored.jsonl").exists() && !bench.path("there/some/prune").exists());
    assert_eq!(bench.server.asked("teacher").len(), 0);
    run(&["name=other", "steps=['import']", "seed=7"]);
    assert_ne!(bench.read("runs/other/import/train.jsonl"), bench.read("there/some/import/train.jsonl"));
    // The set words both the prompts of the teacher and the rows.
    let teaches = "steps=['import', 'signal', 'teach']";
    run(&["name=plain", teaches]);
    run(&["name=compact", teaches, "prompts=compact"]);
    let (plain, compact) = (bench.rows("runs/plain/teach/sft.jsonl"), bench.rows("runs/compact/teach/sft.jsonl"));
    assert_eq!((plain.len(), &plain[0]["completion"]), (compact.len(), &compact[0]["completion"]));
    assert_ne!(plain[0]["prompt"], compact[0]["prompt"]);
    // A thread more changes nothing.
    let said = run(&["name=plain", teaches, "threads=2"]);
    assert_eq!(skipped(&said), ["import", "signal", "teach"]);
}

#[test]
fn the_world_has_its_own_users_and_teacher() {
    let bench = Bench::new();
    let keys = [
        "name=world",
        "prompts=compact",
        "import.format=world",
        "import.input=[]",
        "import.world={users=9, least_interactions=9, most_interactions=9, targets=2, transfer_targets=1}",
        "teacher={world=true}",
        "verifier.orders=one",
        "teach.thresholds={target_probability=0.4, most_targets=3, least_targets=1, least_correct=1, retest=0}",
        "steps=['import', 'signal', 'prune', 'teach']",
    ];
    let keys: Vec<&str> = keys.iter().flat_map(|key| ["--set", *key]).collect();
    bench.synth("run", &keys);
    let (train, test) = (bench.rows("runs/world/import/train.jsonl"), bench.rows("runs/world/import/test.jsonl"));
    assert_eq!(train.len() + test.len(), 9);
    for user in &train {
        let count = |field: &str| user[field].as_array().unwrap().len();
        assert_eq!((count("interactions"), count("targets"), count("transfer")), (9, 2, 2));
    }
    // The further choices reach the rows of RL.
    let rl = bench.rows("runs/world/prune/rl.jsonl");
    assert!(!rl.is_empty() && rl.iter().all(|row| row["targets"].as_array().unwrap().len() == 2));
    let sft = bench.rows("runs/world/teach/sft.jsonl");
    assert!(!sft.is_empty() && sft[0]["completion"][0]["content"].as_str().unwrap().starts_with("<think>"));
    assert_eq!(bench.server.asked("teacher").len(), 0);
}

#[test]
fn a_step_reads_what_is_there_and_names_what_is_not() {
    let bench = Bench::new();
    let synth = |step: &'static str| ["synth", step, "--config", "synth.toml"];
    bench.fails(&synth("signal"), 3, &["import/train.jsonl", "xplore synth import"]);
    bench.fails(&synth("prune"), 3, &["signal/scored.jsonl", "xplore synth signal", "--input"]);
    bench.fails(&[&synth("prune")[..], &["--input", "gone.jsonl"]].concat(), 3, &["gone.jsonl", "correct --input"]);
    bench.fails(&[&synth("run")[..], &["--set", "steps=[]"]].concat(), 2, &["steps", "at least one of"]);
    bench.synth("import", &[]);
    bench.synth("signal", &[]);
    fs::rename(bench.path("runs/news/signal/scored.jsonl"), bench.path("scored.jsonl")).unwrap();
    bench.synth("prune", &["--input", "scored.jsonl"]);
    let rows = bench.rows("runs/news/prune/rl.jsonl");
    assert!(!rows.is_empty());
    assert_eq!(skipped(&bench.synth("prune", &["--input", "scored.jsonl"])), ["prune"]);
    // Another file is another input.
    let half: Vec<String> = bench.read("scored.jsonl").lines().take(2).map(|line| format!("{line}\n")).collect();
    bench.write("half.jsonl", &half.concat());
    assert_eq!(skipped(&bench.synth("prune", &["--input", "half.jsonl"])), [""; 0]);
    assert_eq!(bench.rows("runs/news/prune/rl.jsonl").len(), 2);

    // One process at a time.
    let lock = fs::File::options().write(true).open(bench.path("runs/news/.lock")).unwrap();
    lock.lock().unwrap();
    bench.fails(&synth("import"), 4, &["runs/news", "another process"]);
    drop(lock);
    bench.synth("import", &[]);
}

#[test]
fn an_import_needs_no_configuration() {
    let bench = Bench::new();
    let import = ["synth", "import", "--format", "mind", "--input", "raw", "--out", "histories"];
    let (out, said, code) = bench.xplore(&[&import[..], &["--seed", "3", "--set", "import.test_share=0.5"]].concat());
    assert_eq!((code, out.as_str()), (0, "histories\n"), "{said}");
    let rows = |file: &str| bench.rows(&format!("histories/{file}.jsonl"));
    assert_eq!(rows("train").len() + rows("test").len(), USERS);
    let card: Json = serde_json::from_str(&bench.read("histories/card.json")).unwrap();
    assert_eq!((&card["seed"], &card["users"]["test"]), (&Json::from(3), &Json::from(rows("test").len())));

    let broken = bench.read("raw/behaviors.tsv") + "no tabs at all\n";
    bench.write("raw/behaviors.tsv", &broken);
    let line = format!("behaviors.tsv:{}", broken.lines().count());
    bench.fails(&import, 3, &[&line, "--skip-bad"]);
    let (_, said, code) = bench.xplore(&[&import[..], &["--skip-bad"]].concat());
    assert!(code == 0 && said.contains("malformed rows skipped: 1"), "{said}");

    for other in ["name=x", "out=elsewhere", "teach.max_users=3"] {
        let keys = ["--skip-bad", "--set", other];
        bench.fails(&[&import[..], &keys].concat(), 2, &["import.*, seed and threads", "--config"]);
    }
    bench.fails(
        &[&import[..], &["--set", "import.message_users=user"]].concat(),
        2,
        &["import.message_users", "personamem_v1"],
    );
    bench.fails(&["synth", "import", "--format", "mindd", "--out", "histories"], 2, &["mindd", "mind"]);
    bench.fails(&["synth", "import", "--format", "mind", "--out", "histories"], 2, &["import.input"]);
    bench.fails(&["synth", "import", "--format", "mind", "--input", "raw"], 2, &["--out"]);
    bench.fails(&["synth", "import"], 2, &["--config"]);
}

#[test]
fn stats_inspect_and_audit_read_the_folder() {
    let bench = Bench::new();
    bench.synth("run", &[]);
    let run = |arguments: &[&str]| {
        let (out, said, code) = bench.xplore(&[&["synth"][..], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {said}");
        out
    };
    assert!(!run(&["stats", "runs/news", "--html", "stats.html"]).is_empty());
    assert!(bench.read("stats.html").starts_with("<!"));
    serde_json::from_str::<Json>(&run(&["stats", "runs/news", "--json"])).unwrap();
    let uid = bench.rows("runs/news/import/train.jsonl")[0]["uid"].as_str().unwrap().to_owned();
    let shown = run(&["inspect", "runs/news", &uid]);
    assert!(shown.contains(&uid) && shown.contains("Likes opera above all sports."), "{shown}");
    assert_eq!(run(&["inspect", "runs/news", "1"]), shown);
    assert!(!run(&["audit", "runs/news"]).is_empty());
    serde_json::from_str::<Json>(&run(&["audit", "runs/news", "--json"])).unwrap();
    // All users have the same summary, which are near-duplicates.
    bench.fails(&["synth", "audit", "runs/news", "--strict"], 3, &["the audit has findings"]);
    // The options reach the audit. Against itself, all users are shared.
    let import = "runs/news/import/train.jsonl";
    let against = run(&["audit", "runs/news", "--json", "--against", import, "--ngram", "5", "--similarity", "0.5"]);
    let found: Json = serde_json::from_str(&against).unwrap();
    assert_eq!((&found["leakage"]["ngram"], &found["duplicates"]["similarity"]), (&Json::from(5), &Json::from(0.5)));
    assert_eq!(found["overlaps"][0]["shared_users"], Json::from(bench.rows(import).len()));
    for option in [["--ngram", "2"], ["--similarity", "0"], ["--alpha", "1"]] {
        let words = option.join(" ");
        bench.fails(&[&["synth", "audit", "runs/news"][..], &option].concat(), 2, &[&words]);
    }
    let missing = bench.path("gone");
    bench.fails(&["synth", "audit", missing.to_str().unwrap()], 3, &["gone"]);
}

#[test]
fn a_model_that_cannot_be_downloaded_names_the_example_without_network() {
    let bench = Bench::new();
    let model = ["verifier.endpoint.url=''", "verifier.model.path=Qwen/Qwen3-0.6B", "verifier.prompts=plain"];
    // A file of items is downloaded like the other files.
    let items =
        ["import.format=generic", "import.columns={item='sku', items='hf://datasets/some/shop/items.jsonl'}", "seed=1"];
    for (keys, name) in [(model, "Qwen/Qwen3-0.6B"), (items, "some/shop/items.jsonl")] {
        let output = Command::cargo_bin("xplore")
            .unwrap()
            .current_dir(bench.folder.path())
            .args(["synth", "run", "--config", "synth.toml"])
            .args(keys.iter().flat_map(|key| ["--set", *key]))
            .envs([("HF_HUB_OFFLINE", "1"), ("HF_HOME", "cache")])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains(name) && said.contains("examples/offline"), "{said}");
    }
}
