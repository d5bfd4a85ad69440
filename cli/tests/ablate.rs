//! `xplore ablate` on a tiny model: the report of an ablation that was killed or interrupted is that of one that was not; two
//! invocations share the runs; a run that fails leaves the others; the batch script and the plan.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value as Json;
use tempfile::TempDir;

const STEPS: usize = 6;

/// What an evaluation writes to the log of its run when it ends.
const EVALUATED: &str = " choices judged (";

/// A model, rows of 4 users, a base and an evaluation.
fn place() -> TempDir {
    let place = fixtures::policy::model_and_rows();
    let at = |name: &str| place.path().join(name).display().to_string();
    let model = format!("{{ path = '{}', dtype = 'fp32', device = 'cpu' }}", at("model"));
    // Few of the responses of an untrained model are well-formed, so the entropy bonus makes the gradient.
    let base = format!(
        "prompts = 'compact'\nthreads = 1\nmodel = {model}\njudge = {{ prompts = 'compact', model = {model} }}\n\
         data.train = '{}'\nrollout = {{ users_per_step = 2, num_generations = 2, max_prompt_tokens = 400, max_new_tokens = 8 }}\n\
         algorithm = {{ num_minibatches = 1, entropy_coefficient = 0.1 }}\noptimizer.lr = 1e-2\ncheckpoint.every = 1\n\
         metrics = {{ tensorboard = false, peak_tflops = 1.0 }}\nlog.rollouts_every = 0\n",
        at("rl.jsonl")
    );
    fs::write(place.path().join("base.toml"), base).unwrap();
    let judge = |name: &str, orders: &str| {
        format!(
            "[[judges]]\nname = '{name}'\njudge = {{ prompts = 'compact', orders = '{orders}', model = {model} }}\n"
        )
    };
    let eval = format!(
        "prompts = 'compact'\nthreads = 1\nusers = '{}'\nsettings = ['full']\nsampling.max_new_tokens = 8\n\
         [[models]]\nname = 'replaced'\nmodel.path = 'replaced'\n{}{}",
        at("rl.jsonl"),
        judge("training", "both"),
        judge("second", "one")
    );
    fs::write(place.path().join("eval.toml"), eval).unwrap();
    place
}

/// Writes the ablation with these variants, in the folder `out`, and returns its file.
fn config(place: &TempDir, out: &str, variants: &str) -> PathBuf {
    let at = |name: &str| place.path().join(name).display().to_string();
    let text = format!(
        "out = '{}'\nbase = '{}'\neval = '{}'\nsteps = {STEPS}\nseeds = [0, 1]\n{variants}",
        at(out),
        at("base.toml"),
        at("eval.toml")
    );
    let file = place.path().join(format!("{out}.toml"));
    fs::write(&file, text).unwrap();
    file
}

const VARIANTS: &str =
    "[[variants]]\nname = 'usual'\n[[variants]]\nset = ['algorithm.entropy_coefficient=0.5', 'optimizer.lr=2e-2']\n";

fn command(file: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("xplore"));
    command.arg("ablate").arg("--config").arg(file).args(more);
    command
}

fn ablate(file: &Path, more: &[&str]) -> Output {
    command(file, more).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Returns a report without its section of times.
fn untimed(text: &str) -> String {
    let (before, rest) = text.split_once("<!-- time -->").unwrap();
    let (_, after) = rest.split_once("<!-- /time -->").unwrap();
    format!("{before}{after}")
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", folder.display()))
}

/// Waits until `is_there`.
fn wait_until(what: &str, is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what} does not appear");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn changed(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_killed_ablation_continues_and_its_report_is_that_of_an_uninterrupted_one() {
    let place = place();
    let page = place.path().join("page.md");
    fs::write(&page, "# Page\n\n<!-- ablation ablation -->\nold\n<!-- /ablation ablation -->\n").unwrap();
    let whole = ablate(&config(&place, "whole", VARIANTS), &["--into", page.to_str().unwrap()]);
    assert!(whole.status.success(), "{}", said(&whole));
    let whole = place.path().join("whole/ablation");

    let file = config(&place, "killed", VARIANTS);
    let killed = place.path().join("killed/ablation");
    let mut child = command(&file, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let finished = killed.join("runs/usual/seed-0");
    wait_until("the first trained run", || finished.join("done.json").exists());
    let entries = fs::read_dir(whole.join("runs")).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let other = names.find(|name| name.starts_with("algorithm")).unwrap();
    let checkpoints = killed.join("runs").join(&other).join("seed-0/checkpoints");
    let has_entries = || fs::read_dir(&checkpoints).is_ok_and(|mut entries| entries.next().is_some());
    wait_until("a checkpoint of the next run", has_entries);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!killed.join("ablation.json").exists(), "it was killed before its end");
    let kept = ["done.json", "metrics.jsonl", "eval/eval-users.jsonl"].map(|name| finished.join(name));
    let before = kept.clone().map(|path| changed(&path));

    let resumed = ablate(&file, &[]);
    assert!(resumed.status.success(), "{}", said(&resumed));
    assert_eq!(kept.map(|path| changed(&path)), before, "a finished run is not repeated");
    for name in ["ablation.json", "ablation.svg"] {
        assert_eq!(read(&killed, name), read(&whole, name), "{name}");
    }
    for name in ["ablation.md", "ablation.html"] {
        assert_eq!(untimed(&read(&killed, name)), untimed(&read(&whole, name)), "{name}");
    }
    the_report_is_whole(&whole);
    assert!(
        read(place.path(), "page.md").starts_with("# Page\n\n<!-- ablation ablation -->\n### Ablation: ablation\n")
    );

    // Nothing is left to run, and other settings are not mixed with the finished runs.
    let begin = read(&killed, "ablation.md");
    assert!(ablate(&file, &[]).status.success());
    assert_eq!(read(&killed, "ablation.md"), begin);
    let refused = ablate(&file, &["--set", "steps=7"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("a run with another configuration; remove it"), "{}", said(&refused));
}

#[test]
fn an_interrupted_ablation_resumes_and_two_invocations_share_its_runs() {
    let place = place();
    let whole = ablate(&config(&place, "whole", VARIANTS), &[]);
    assert!(whole.status.success(), "{}", said(&whole));
    let whole = place.path().join("whole/ablation");

    let file = config(&place, "shared", VARIANTS);
    let shared = place.path().join("shared/ablation");
    let child = command(&file, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoints = shared.join("runs/usual/seed-0/checkpoints");
    wait_until("a checkpoint", || fs::read_dir(&checkpoints).is_ok_and(|mut entries| entries.next().is_some()));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let interrupted = child.wait_with_output().unwrap();
    assert_eq!(interrupted.status.code(), Some(130), "{}", said(&interrupted));
    assert!(said(&interrupted).contains("the same command resumes it"), "{}", said(&interrupted));
    assert!(!shared.join("ablation.json").exists());

    // The second of two invocations waits for the runs of the first, and starts others.
    let both = [(); 2].map(|()| command(&file, &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    for one in both {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    for name in ["ablation.json", "ablation.svg"] {
        assert_eq!(read(&shared, name), read(&whole, name), "{name}");
    }
    for name in ["ablation.md", "ablation.html"] {
        assert_eq!(untimed(&read(&shared, name)), untimed(&read(&whole, name)), "{name}");
    }
    // Each run was evaluated once.
    for entry in fs::read_dir(shared.join("logs")).unwrap() {
        let log = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert_eq!(log.matches(EVALUATED).count(), 1, "{log}");
    }
}

fn the_report_is_whole(folder: &Path) {
    let json: Json = serde_json::from_str(&read(folder, "ablation.json")).unwrap();
    let rows = |key: &str| json[key].as_array().unwrap().clone();
    let name = "algorithm.entropy_coefficient=0.5, optimizer.lr=2e-2";
    assert_eq!((json["baseline"].as_str(), json["variants"][1]["name"].as_str()), (Some("usual"), Some(name)));
    // Start and two variants, two judges, for each kind of targets.
    let mut kinds: Vec<String> = rows("accuracies").iter().map(|row| row["targets"].to_string()).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(rows("accuracies").len(), 6 * kinds.len());
    let pairs: Vec<_> =
        rows("differences").iter().map(|row| (row["variant"].clone(), row["baseline"].clone())).collect();
    assert_eq!(pairs.len(), 4 * kinds.len());
    assert_eq!((&pairs[0].0, &pairs[0].1), (&name.into(), &"usual".into()));
    let last = &pairs[pairs.len() - 1];
    assert_eq!((&last.0, &last.1), (&"usual".into(), &"start".into()));
    let first = &rows("differences")[0]["difference"];
    assert_eq!((first["seeds"].as_u64(), first["users"].as_u64()), (Some(2), Some(4)));
    assert_eq!(rows("hacking").len(), 2 * kinds.len());
    let costs = rows("costs");
    assert_eq!(costs.len(), 4);
    // 6 steps of 2 users, 2 stages and 2 samples, of at most 8 tokens.
    assert!(costs.iter().all(|cost| (1..=6 * 2 * 2 * 2 * 8).contains(&cost["generated_tokens"].as_u64().unwrap())));
    assert!(rows("sentences").len() >= 2);
    assert!(rows("missing").is_empty());
    let page = read(folder, "ablation.html");
    assert!(page.contains("Entropy") && page.contains("<svg") && !page.contains("NaN"));
    // Only the start is evaluated beside the references.
    let models = |run: &str| {
        let rows: Vec<Json> =
            serde_json::from_str(&read(folder, &format!("runs/{run}/seed-0/eval/eval.json"))).unwrap();
        let mut models: Vec<String> = rows.iter().map(|row| row["model"].as_str().unwrap().to_owned()).collect();
        models.dedup();
        models
    };
    assert_eq!(models("usual"), ["policy"]);
    assert!(models("start").contains(&"none".to_owned()));
    assert!(folder.join("judge-cache").exists() || json["costs"][0]["judged_responses"] == 0);
}

#[test]
fn a_run_that_fails_leaves_the_others() {
    let place = place();
    let variants =
        "start = false\n[[variants]]\nname = 'usual'\n[[variants]]\nname = 'gone'\nset = ['data.train=gone.jsonl']\n";
    let file = config(&place, "partly", variants);
    // A device for each of two runs at a time; on a machine without GPUs, its number has no effect.
    let output = ablate(&file, &["--devices", "0,1", "--set", "steps=1"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("2 of 4 runs failed") && said.contains("gone, seed 1: training ended with exit code"),
        "{said}"
    );
    let folder = place.path().join("partly/ablation");
    let log = read(&folder, "logs/gone-seed-1.log");
    assert!(log.contains("gone.jsonl"), "{log}");
    let json: Json = serde_json::from_str(&read(&folder, "ablation.json")).unwrap();
    assert_eq!((json["costs"].as_array().unwrap().len(), json["missing"].as_array().unwrap().len()), (2, 2));
    assert!(read(&folder, "ablation.md").contains("Runs without a result: gone, seed 0: training ended"));
    // The report alone does not start the failed runs again.
    let report = ablate(&file, &["--report", "--set", "steps=1"]);
    assert!(report.status.success(), "{}", String::from_utf8_lossy(&report.stderr));
    assert!(read(&folder, "ablation.md").contains("Runs without a result: gone, seed 0: not finished"));
    assert_eq!(read(&folder, "logs/gone-seed-1.log"), log);
}

#[test]
fn one_variant_and_seed_is_a_task_of_an_array_job() {
    let place = place();
    let file = config(&place, "array", VARIANTS);
    let plan = ablate(&file, &["--dry-run"]);
    let shown = said(&plan);
    assert!(plan.status.success() && shown.contains("4 runs of 6 steps"), "{shown}");
    assert!(
        shown.contains("  1 algorithm.entropy_coefficient=0.5") && shown.contains("  2 start: the model before"),
        "{shown}"
    );
    let script = place.path().join("array.sbatch");
    let written = ablate(&file, &["--slurm", script.to_str().unwrap()]);
    assert!(written.status.success(), "{}", said(&written));
    assert!(read(place.path(), "array.sbatch").contains("#SBATCH --array=0-5"));
    let one = ablate(&file, &["--variant", "0", "--seed", "1", "--set", "steps=1"]);
    assert!(one.status.success(), "{}", said(&one));
    let folder = place.path().join("array/ablation");
    assert!(folder.join("runs/usual/seed-1/done.json").exists() && !folder.join("runs/usual/seed-0").exists());
    assert!(!folder.join("ablation.json").exists());
    let refused = ablate(&file, &["--variant", "3"]);
    assert!(said(&refused).contains("expected an index from 0 to 2"), "{}", said(&refused));
}

#[test]
fn mistakes_are_found_before_the_first_run() {
    let place = place();
    for (variants, words) in [
        ("[[variants]]\nname = 'x'\nset = ['reward.termz=[]']\n", "the variant `x`"),
        ("[[variants]]\nname = 'x'\nset = [\"reward.terms=[{name='juge'}]\"]\n", "the variant `x`"),
        (
            "[[variants]]\nname = 'x'\nset = [\"reward.terms=[{name='judge'}, {name='cross_judge', params={judge='far'}}]\"]\n",
            "reward of the variant `x`: reward term `cross_judge`: no judge is named `far`",
        ),
        ("[[variants]]\nname = 'x'\nset = ['checkpoint.at_end=false']\n", "`checkpoint.at_end` is false"),
    ] {
        let file = config(&place, "wrong", variants);
        let checked =
            Command::new(cargo_bin("xplore")).args(["config", "check", "--kind", "ablate"]).arg(&file).output();
        for output in [ablate(&file, &[]), checked.unwrap()] {
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            assert!(said(&output).contains(words), "{words}: {}", said(&output));
        }
    }
    assert!(!place.path().join("wrong").exists());
    let file = config(&place, "right", VARIANTS);
    for (arguments, words) in [
        (&["--into", "gone.md"][..], "--into gone.md"),
        (&["--devices", "0,,1"][..], "--devices"),
        (&["--dry-run", "--seed", "0"][..], "cannot be used with"),
        (&["--report", "--devices", "0"][..], "cannot be used with"),
    ] {
        let output = ablate(&file, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    assert!(!place.path().join("right").exists());
    let checked = Command::new(cargo_bin("xplore")).args(["config", "check", "--kind", "ablate"]).arg(&file).output();
    assert!(said(&checked.unwrap()).contains("compared with `usual`"));
}
