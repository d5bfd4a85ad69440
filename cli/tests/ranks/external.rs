//! Reward terms that a program computes, in a run of several ranks.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::job::{Ended, ended};

/// A small policy, which is its own judge, and a program.
struct Run {
    folder: TempDir,
}

impl Run {
    /// `body` answers a `request`; `FOLDER` stands for the folder of the run.
    fn new(body: &str) -> Self {
        let folder = fixtures::policy::model_and_rows();
        let path = format!("{:?}", folder.path().display().to_string());
        let program = format!(
            "import json, os, sys, time\nopen(os.path.join({path}, f'started-{{os.getpid()}}'), 'w').close()\n\
             sys.stdin.readline()\nprint('{{\"xplore_reward\": 1}}', flush=True)\nfor line in sys.stdin:\n    \
             request = json.loads(line)\n    {}\n",
            body.replace("FOLDER", &path).replace('\n', "\n    ")
        );
        fs::write(folder.path().join("term.py"), program).unwrap();
        Self { folder }
    }

    fn arguments(&self, name: &str, keys: &str) -> Vec<String> {
        let place = self.folder.path().display();
        let python = python_reference::any_python();
        let text = format!(
            "name = '{name}'\nout = '{place}/runs'\nprompts = 'compact'\nthreads = 1\nmodel = {{ path = '{place}/model', dtype = \
             'fp32', device = 'cpu' }}\njudge = {{ prompts = 'compact', model = {{ path = '{place}/model', dtype = 'fp32', device = \
             'cpu' }} }}\ndata.train = '{place}/rl.jsonl'\nrollout = {{ users_per_step = 2, num_generations = 2, \
             max_prompt_tokens = 400, max_new_tokens = 8 }}\ntrain.steps = 3\nparallel.timeout_seconds = 60\n[[reward.terms]]\n\
             name = 'mine'\ncommand = ['{}', '{place}/term.py']\n{keys}\n",
            python.display()
        );
        let file = self.folder.path().join(format!("{name}.toml"));
        fs::write(&file, text).unwrap();
        ["rl", "--config", file.to_str().unwrap()].map(str::to_owned).into()
    }

    fn launch(&self, name: &str, keys: &str) -> Ended {
        let mut command = Command::new(cargo_bin("xplore"));
        ended(command.args(["launch", "--nproc", "2", "--"]).args(self.arguments(name, keys)), &[])
    }

    fn metrics(&self, name: &str) -> Vec<Json> {
        let text = fs::read_to_string(self.folder.path().join("runs").join(name).join("metrics.jsonl"));
        let text = text.unwrap_or_default();
        // The last line may not be complete while the run writes.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        text[..complete].lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the number of processes that the program was started as.
    fn started(&self) -> usize {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("started-")).count()
    }
}

#[test]
fn one_rank_asks_and_all_ranks_have_its_scores() {
    let run = Run::new(
        "scores = [os.urandom(1)[0] / 256 for _ in request['responses']]\n\
         answer = {'id': request['id'], 'scores': scores, 'metrics': {'step': request['step']}}\n\
         print(json.dumps(answer), flush=True)",
    );
    run.launch("agree", "workers = 2\nbatch_size = 2").well();
    let steps = run.metrics("agree");
    assert_eq!(steps.len(), 3);
    for (step, metrics) in steps.iter().enumerate() {
        let told = ["step", "retries"].map(|key| metrics[format!("reward/mine/{key}")].as_f64().unwrap());
        assert_eq!(told, [step as f64, 0.0]);
        assert!((0.0..1.0).contains(&metrics["reward/mine"].as_f64().unwrap()));
    }
    assert_eq!(run.started(), 2);
}

#[test]
fn a_failure_ends_all_ranks_with_its_reason_or_has_the_fallback() {
    let run = Run::new("sys.exit('no such topic')");
    let over = run.launch("stop", "retries = 0");
    assert_eq!(over.code, 4, "{}", over.said);
    assert!(over.said.contains("[0] error: reward term `mine` ("), "{}", over.said);
    assert!(over.said.contains("step 1: it ended with exit code 1") && over.said.contains("no such topic"));
    assert!(over.said.contains("[1] error: ") && over.said.contains("rank 0 failed: "), "{}", over.said);
    assert!(over.took < Duration::from_secs(60), "{:?}", over.took);
    run.launch("fallback", "retries = 0\non_failure = 'fallback'\nfallback = 0.25").well();
    for metrics in run.metrics("fallback") {
        let told = ["reward/mine", "reward/mine/fallback"].map(|key| metrics[key].as_f64().unwrap());
        assert_eq!(told, [0.25, 1.0]);
    }
}

#[test]
fn a_program_that_does_not_start_ends_the_run_before_the_first_step() {
    let run = Run::new("pass");
    fs::write(run.folder.path().join("term.py"), "import no_such_module\n").unwrap();
    let keys = "on_failure = 'fallback'\nfallback = 0.5";
    let over = ended(Command::new(cargo_bin("xplore")).args(run.arguments("start", keys)), &[]);
    assert_eq!(over.code, 4, "{}", over.said);
    assert!(over.said.contains("the handshake failed: it ended with exit code 1"), "{}", over.said);
    assert!(over.said.contains("ModuleNotFoundError"), "{}", over.said);
    assert!(run.metrics("start").is_empty());
}

#[test]
fn an_interrupt_finishes_the_step_and_ends_the_program() {
    let run = Run::new(
        "time.sleep(0.3)\nanswer = {'id': request['id'], 'scores': [0.5] * len(request['responses'])}\n\
         print(json.dumps(answer), flush=True)\nopen(os.path.join(FOLDER, 'pid'), 'w').write(str(os.getpid()))",
    );
    let mut command = Command::new(cargo_bin("xplore"));
    command.args(run.arguments("stopped", "")).args(["--set", "train.steps=1000"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while run.metrics("stopped").is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    let pid = fs::read_to_string(run.folder.path().join("pid")).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid).exists(), "the program is still running");
}
