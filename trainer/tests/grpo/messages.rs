//! Users whose histories are messages.

use chat::{Message, RlRow};
use configs::RlConfig;
use configs::rl::RolloutConfig;
use configs::rl::rollout::PromptOverflow;
use fixtures::policy::{config, message_rows, pseudorandom_gate, pseudorandom_judge, rows, trainable, with_rollouts};
use serde_json::Value as Json;
use trainer::grpo::curriculum_sampler::{CurriculumSampler, usable};
use trainer::grpo::group::Group;
use trainer::grpo::rollout::Rollouts;
use trainer::grpo::stages::Stage;
use trainer::grpo::train;
use trainer::{Output, Run, TrainError};

fn groups_of(rows: &[RlRow], config: &RlConfig) -> Result<Vec<Group>, TrainError> {
    let trainable = trainable(config, None);
    let users = usable(rows, config);
    let rolled = with_rollouts(config, |r| r.roll_out((&trainable.model, &trainable.context), &users, (0, 0)));
    rolled.map(|output| output.groups)
}

#[test]
fn each_stage_reads_its_messages_and_is_judged_on_its_own_target() {
    let rows = message_rows(2);
    let groups = groups_of(&rows, &config()).unwrap();
    assert_eq!(
        groups.iter().map(|g| (g.uid.as_str(), g.stage)).collect::<Vec<_>>(),
        [("m0", 0), ("m1", 0), ("m0", 1), ("m1", 1)]
    );
    for group in &groups {
        let row = rows.iter().find(|row| row.uid == group.uid).unwrap();
        let read = [&row.messages[..3], &row.messages[3..]][group.stage];
        assert_eq!(group.input.messages, read);
        assert!(group.input.history.is_empty());
        assert_eq!(group.input.targets, [row.stage_targets[group.stage].clone()]);
        assert_eq!(group.input.past_summary.is_some(), group.stage == 1);
    }
    // A record of the step holds the messages, and one of interactions holds none.
    let text = serde_json::to_string(&groups).unwrap();
    let back: Vec<Group> = serde_json::from_str(&text).unwrap();
    assert_eq!(back[2].input, groups[2].input);
    let of_choices = groups_of(&self::rows(2), &config()).unwrap();
    assert!(!serde_json::to_string(&of_choices).unwrap().contains("\"messages\""));
}

#[test]
fn a_prompt_that_is_too_long_loses_its_oldest_messages() {
    let rows = message_rows(4);
    let mut config = config();
    let whole = groups_of(&rows, &config).unwrap();
    let longest = whole.iter().filter(|g| g.stage == 0).map(|g| g.prompt.len()).max().unwrap();
    config.rollout.stages = 1;
    config.rollout.max_prompt_tokens = longest;
    config.rollout.prompt_overflow = PromptOverflow::DropOldest;
    let dropped = groups_of(&rows, &config).unwrap();
    assert!(dropped.iter().all(|g| g.prompt.len() <= longest && g.prompt[..3] == whole[0].prompt[..3]));
    let trainable = trainable(&config, None);
    let unlimited =
        RlConfig { rollout: RolloutConfig { max_prompt_tokens: 4096, ..config.rollout.clone() }, ..config.clone() };
    let prompt = |row: &RlRow, messages: &[Message]| {
        let stage = Stage { window: messages.into(), target: &row.stage_targets[0] };
        with_rollouts(&unlimited, |r| r.prompt(&trainable.model, None, stage, &row.uid).unwrap().0)
    };
    for group in &dropped {
        let row = rows.iter().find(|row| row.uid == group.uid).unwrap();
        // One stage would read 6 to 9 messages. The prompt has the latest, and one more would be too many.
        let (all, kept) = (row.messages.len(), group.input.messages.len());
        assert!((1..all).contains(&kept), "{kept} of {all}");
        assert_eq!(group.input.messages, row.messages[all - kept..]);
        assert_eq!(group.prompt, prompt(row, &group.input.messages));
        assert!(prompt(row, &row.messages[all - kept - 1..]).len() > longest);
    }
    config.rollout.max_prompt_tokens = 4;
    let error = groups_of(&rows, &config).unwrap_err().to_string();
    assert!(error.contains("with 1 messages, more than rollout.max_prompt_tokens (4)"), "{error}");
    config.rollout.max_prompt_tokens = longest;
    config.rollout.prompt_overflow = PromptOverflow::Error;
    let error = groups_of(&rows, &config).unwrap_err().to_string();
    assert!(error.contains("user m0: the prompt has") && error.contains("with 6 messages, more than"), "{error}");
}

#[test]
fn a_run_trains_on_users_of_both_kinds() {
    let mut config = config();
    config.train.steps = 1;
    let both = [rows(2), message_rows(2)].concat();
    assert_eq!(CurriculumSampler::new(&both, &config).unwrap().len(), 4);
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::create(folder.path(), "").unwrap();
    let mut trainable = trainable(&config, None);
    with_rollouts(&config, |rollouts| {
        let rollouts = Rollouts { ask: &pseudorandom_judge, gate: Some(&pseudorandom_gate), ..rollouts };
        let mut output = Output { run: &mut run, phase: "rl", checkpoints: None, progress: &mut |_, _, _| {} };
        train(&mut trainable, &both, rollouts, Some(1e12), None, None, &mut output).unwrap();
    });
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let line: Json = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!(line["responses/updated"].as_f64().unwrap() > 0.0, "{line}");
    assert!(line["grad_norm"].as_f64().unwrap() > 0.0, "{line}");
}
