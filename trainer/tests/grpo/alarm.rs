//! The reward hacking alarm in a run whose scripted judge is hacked while the held-out judge does not move.

use std::cell::Cell;
use std::path::Path;

use configs::RlConfig;
use configs::judge::RlJudge;
use configs::rl::alarm::{AlarmAction, AlarmConfig, AlarmSign};
use rewards::{PanelRequest, PanelVerdict};
use serde_json::Value as Json;
use tolerance::assert_within;
use trainer::grpo::rollout::Rollouts;
use trainer::grpo::train;
use trainer::{Output, Run, TrainError, checkpoints};

use fixtures::policy::{config, rows, trainable, with_rollouts};

/// The probability of the users' choices by the reward's judge, step by step (trainer/src/grpo/alarm/tests.rs has the p-values).
const HACKED: [f64; 8] = [0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9];

fn watched(action: AlarmAction) -> RlConfig {
    let judge = |name: &str, weight| RlJudge { name: name.into(), weight, ..RlJudge::default() };
    let mut config = config();
    config.judges = vec![judge("training", 1.0), judge("held_out", 0.0)];
    config.validation.every = 1;
    config.train.steps = HACKED.len();
    config.checkpoint.every = 0;
    let (judge, signs) = ("held_out".to_owned(), vec![AlarmSign::Gap]);
    config.alarm = Some(AlarmConfig { judge, samples: 8, window: 4, signs, action, ..AlarmConfig::default() });
    config
}

/// Trains with the hacked judge; the held-out judge says 0.5, or follows. Returns the result and the metrics.
fn run(folder: &Path, config: &RlConfig, follows: bool, resume: Option<u64>) -> (Result<(), TrainError>, Vec<Json>) {
    let mut trainable = trainable(config, None);
    let place = folder.join("checkpoints");
    let from = if resume.is_some() { checkpoints::newest(&place).unwrap() } else { None };
    let mut run = match resume {
        Some(step) => Run::go_on(folder, "", step).unwrap(),
        None => Run::create(folder, "").unwrap(),
    };
    let reached = Cell::new(resume.unwrap_or(0));
    let ask = |requests: &[PanelRequest]| -> Result<Vec<PanelVerdict>, TrainError> {
        let hacked = HACKED[reached.get() as usize];
        let one = |request: &PanelRequest| match request.judge.as_deref() {
            None => PanelVerdict::new(hacked),
            Some("held_out") => PanelVerdict::new(if follows { hacked } else { 0.5 }),
            Some(other) => panic!("nobody asks {other}"),
        };
        Ok(requests.iter().map(one).collect())
    };
    let rows = rows(8);
    let result = with_rollouts(config, |rollouts| {
        let rollouts = Rollouts { ask: &ask, ..rollouts };
        let mut progress = |step: u64, _: u64, _: &trainer::metrics::Metrics| reached.set(step);
        let mut output =
            Output { run: &mut run, phase: "rl", checkpoints: Some(place.clone()), progress: &mut progress };
        train(&mut trainable, &rows, rollouts, None, from, None, &mut output)
    });
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    (result, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn raised(metrics: &[Json]) -> Vec<f64> {
    metrics.iter().map(|line| line["alarm_raised"].as_f64().unwrap()).collect()
}

#[test]
fn a_warning_comes_at_the_step_worked_by_hand_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (result, metrics) = run(folder.path(), &watched(AlarmAction::Warn), false, None);
    result.unwrap();
    assert_eq!(raised(&metrics), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    for (line, hacked) in metrics.iter().zip(HACKED) {
        assert_within!(line["alarm/training"].as_f64().unwrap() - hacked, 1e-12);
        assert_within!(line["alarm/held_out"].as_f64().unwrap() - 0.5, 1e-12);
    }
    // The first window ends at step 4; after the alarm, a new one begins.
    let tested: Vec<bool> = metrics.iter().map(|line| line["alarm_p_value/gap"].is_number()).collect();
    assert_eq!(tested, [false, false, false, true, true, true, false, false]);
    assert_within!(metrics[3]["alarm_p_value/gap"].as_f64().unwrap() - 0.112_701_7, 1e-6);
    assert_within!(metrics[4]["alarm_p_value/gap"].as_f64().unwrap() - 0.028_060_1, 1e-6);
}

#[test]
fn a_held_out_judge_that_follows_raises_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (result, metrics) = run(folder.path(), &watched(AlarmAction::Stop), true, None);
    result.unwrap();
    assert_eq!(raised(&metrics), [0.0; 8]);
}

#[test]
fn a_pause_writes_a_checkpoint_that_the_run_resumes_from() {
    let folder = tempfile::tempdir().unwrap();
    let config = watched(AlarmAction::Pause);
    let (result, metrics) = run(folder.path(), &config, false, None);
    let Err(TrainError::Alarm { reason, checkpoint: Some(checkpoint) }) = result else { panic!("{result:?}") };
    assert!(reason.contains("step 6") && reason.contains("held_out"), "{reason}");
    assert!(checkpoint.ends_with("checkpoints/step-000006") && checkpoint.join("trainer/alarm.json").exists());
    assert_eq!(metrics.len(), 6);
    let (result, metrics) = run(folder.path(), &config, false, Some(6));
    result.unwrap();
    assert_eq!(metrics.len(), 8);
}

#[test]
fn a_stop_ends_the_run_without_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (result, metrics) = run(folder.path(), &watched(AlarmAction::Stop), false, None);
    assert!(matches!(result, Err(TrainError::Alarm { checkpoint: None, .. })), "{result:?}");
    assert_eq!((metrics.len(), checkpoints::newest(&folder.path().join("checkpoints")).unwrap()), (6, None));
}

#[test]
fn a_resumed_run_remembers_its_looks() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = watched(AlarmAction::Warn);
    config.train.steps = 3;
    run(folder.path(), &config, false, None).0.unwrap();
    config.train.steps = HACKED.len();
    let (result, metrics) = run(folder.path(), &config, false, Some(3));
    result.unwrap();
    assert_eq!(raised(&metrics), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
}
