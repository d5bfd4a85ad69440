//! A run with two judges: one in this process, and one at an endpoint.

mod serving;

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use chat::{Interaction, RlRow};
use configs::RlConfig;
use fixtures::policy::model_and_rows;
use rewards::{JudgeStats, PanelRequest};
use serde_json::Value as Json;
use tolerance::assert_within;
use xplore::panel;

use crate::serving::serve;

/// Returns a configuration with two judges of one model: `near` in this process, and `far` at `url`.
fn text(url: &str) -> String {
    format!(
        "out = 'runs'\nthreads = 1\nprompts = 'compact'\nmetrics = {{ tensorboard = false, peak_tflops = 1.0 }}\n\
         model = {{ path = 'model', dtype = 'fp32', device = 'cpu' }}\ndata.train = 'rl.jsonl'\ntrain.steps = 1\n\
         rollout = {{ users_per_step = 2, num_generations = 2, max_prompt_tokens = 400, max_new_tokens = 8 }}\n\
         [[judges]]\nname = 'near'\njudge.prompts = 'compact'\njudge.answer_prefix = ''\njudge.choices = ['warm', 'long']\n\
         judge.model = {{ path = 'model', dtype = 'fp32', device = 'cpu' }}\n\
         [[judges]]\nname = 'far'\nweight = 3.0\nprices = {{ prompt = 2.0, completion = 8.0 }}\njudge.prompts = 'compact'\n\
         judge.answer_prefix = ''\njudge.choices = ['warm', 'long']\njudge.endpoint = {{ url = '{url}', model = 'served' }}\n"
    )
}

fn config(folder: &Path, url: &str, set: &[&str]) -> RlConfig {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let text = text(url).replace("path = 'model'", &format!("path = '{}'", folder.join("model").display()));
    configs::parse("rl.toml", &text, &set).unwrap()
}

fn requests(summary: &str) -> Vec<PanelRequest> {
    let target = |chosen: &str, task: &str| Interaction {
        chosen: chosen.into(),
        rejected: Some("long dry reports".into()),
        task: Some(task.into()),
        ..Interaction::default()
    };
    let targets = [target("warm stories", "news"), target("quiet boats", "shop")];
    targets.iter().map(|target| PanelRequest::choice(target, summary).unwrap()).collect()
}

#[test]
fn judges_here_and_at_an_endpoint_share_the_questions_by_weight_and_task() {
    let folder = model_and_rows();
    let server = serve(&folder.path().join("model"), &["--served-model-name", "served"]);
    let asked = [requests("likes space"), requests("likes boats")].concat();
    let judged = |set: &[&str]| {
        let panel = panel::panel(&config(folder.path(), &server.url, set)).unwrap();
        assert!(panel.has_remote());
        panel.submit(&asked[..2]).unwrap();
        (panel.verdicts(&asked).unwrap(), panel.take_stats())
    };
    let (verdicts, stats) = judged(&[]);
    for verdict in &verdicts {
        let of = |judge: &str| verdict.of(judge).unwrap().p_chosen;
        assert_within!(verdict.p_chosen - (of("near") + 3.0 * of("far")) / 4.0, 1e-12);
    }
    let [near, far]: [JudgeStats; 2] = stats.try_into().unwrap();
    assert_eq!((near.requests, near.hits, near.cost), (4, 0, None));
    assert_eq!((far.requests, far.hits), (4, 0));
    assert!(near.tokens > 8 && far.tokens > 8 && far.cost.unwrap() > 0.0, "{near:?} {far:?}");

    let least = judged(&["panel=min"]).0;
    for (verdict, mean) in least.iter().zip(&verdicts) {
        let of = |judge: &str| mean.of(judge).unwrap().p_chosen;
        assert_within!(verdict.p_chosen - of("near").min(of("far")), 1e-6);
    }
    // The judge at the endpoint takes no part in the choices of another task.
    let by_task = judged(&["judges.1.tasks=['shop']"]).0;
    assert_eq!(by_task.iter().map(|v| v.judges.len()).collect::<Vec<_>>(), [1, 2, 1, 2]);
    // Verdicts of the judge in this process are found again by another run.
    let cache = format!("judge_cache={}", folder.path().join("verdicts").display());
    let hits = |set: &[&str]| judged(set).1[0].hits;
    assert_eq!([hits(&[&cache]), hits(&[&cache]), hits(&[&cache, "judges.0.judge.orders=one"])], [0, 4, 0]);
}

#[test]
fn a_run_loads_its_judges_and_logs_what_each_did() {
    let folder = model_and_rows();
    let server = serve(&folder.path().join("model"), &["--served-model-name", "served"]);
    fs::write(folder.path().join("rl.toml"), text(&server.url)).unwrap();
    let run = |set: &[&str]| {
        let mut command = Command::cargo_bin("xplore").unwrap();
        command.current_dir(folder.path()).args(["rl", "--config", "rl.toml"]);
        command.args(set.iter().flat_map(|value| ["--set", *value])).output().unwrap()
    };
    let output = run(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let metrics = fs::read_to_string(folder.path().join("runs/rl/metrics.jsonl")).unwrap();
    let line: Json = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    for key in ["requests", "hits", "tokens", "seconds"] {
        assert!(
            line[format!("judge/near/{key}")].is_number() && line[format!("judge/far/{key}")].is_number(),
            "{line}"
        );
    }
    assert!(line["judge/far/cost"].is_number() && line["judge/near/cost"].is_null(), "{line}");
    let prompts = fs::read_to_string(folder.path().join("runs/rl/prompts.json")).unwrap();
    assert!(prompts.contains("judges[0].judge.prompts") && prompts.contains("judges[1].judge.prompts"), "{prompts}");

    // Every target needs a judge of the panel.
    let rows: Vec<RlRow> = chat::jsonl::read(&folder.path().join("rl.jsonl")).unwrap();
    assert!(rows.iter().all(|row| row.history[3].task.is_none()));
    let output = run(&["name=tasks", "judges.0.tasks=['shop']", "judges.1.tasks=['news']"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("a target has no task, which no judge of the panel serves"),
        "{said}"
    );
}
