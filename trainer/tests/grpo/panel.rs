//! The requests of a stage to the judges, and what they are about.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use configs::RlConfig;
use rewards::{
    Composition, JudgeRequest, JudgeStats, PanelRequest, Registry, RewardBatch, RewardError, RewardTerm, TermSpec,
};
use tolerance::assert_within;
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::group::Group;
use trainer::grpo::rollout::Rollouts;
use trainer::{TrainError, grpo};

use fixtures::policy::{config, pseudorandom_judge, rolled_out, rows, trainable, with_rollouts};

/// The mean probability of the choices in other domains, as a judge named `second` sees them.
#[derive(serde::Deserialize)]
struct Transfer {}

impl RewardTerm for Transfer {
    fn judgments(&self, batch: &RewardBatch<'_>) -> Result<Vec<JudgeRequest>, RewardError> {
        let mut requests = Vec::new();
        for (index, response) in batch.responses.iter().enumerate().filter(|(_, r)| r.well_formed) {
            assert!(response.verdicts.is_empty() && response.p_chosen.is_none(), "not judged yet");
            let asked = response.transfer.iter().filter_map(|target| PanelRequest::choice(target, response.text));
            requests.extend(asked.map(|request| JudgeRequest::new(index, request.of_judge("second"))));
        }
        Ok(requests)
    }

    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let mut verdicts = batch.verdicts.iter();
        let mut scores = Vec::new();
        for response in batch.responses {
            let of_response = if response.well_formed { response.transfer.len() } else { 0 };
            let sum: f64 = verdicts.by_ref().take(of_response).map(|v| v.p_chosen).sum();
            scores.push(sum / of_response.max(1) as f64);
        }
        Ok(scores)
    }
}

fn two_terms() -> Composition {
    let mut registry = Registry::default();
    registry.register::<Transfer>("transfer").unwrap();
    Composition::new(&registry, &[TermSpec::new("judge", 1.0), TermSpec::new("transfer", 0.5)]).unwrap()
}

/// Rolls out one step. Returns its groups, the requests submitted in advance, and the batches asked.
fn step(config: &RlConfig, in_advance: bool) -> (Vec<Group>, Vec<Vec<PanelRequest>>, Vec<Vec<PanelRequest>>) {
    let (rows, trainable, composition) = (rows(8), trainable(config, None), two_terms());
    let (submitted, asked) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let ask = |requests: &[PanelRequest]| {
        asked.borrow_mut().push(requests.to_vec());
        pseudorandom_judge(requests)
    };
    let submit = |requests: &[PanelRequest]| {
        submitted.borrow_mut().push(requests.to_vec());
        Ok::<_, TrainError>(())
    };
    let next = CurriculumSampler::new(&rows, config).unwrap().next(config.rollout.users_per_step, (0, 0));
    let groups = with_rollouts(config, |rollouts| {
        let submit = in_advance.then_some(&submit as &grpo::rewarding::SubmitFn<'_>);
        let rollouts = Rollouts { ask: &ask, submit, composition: &composition, ..rollouts };
        trainable.as_one(|model| rollouts.roll_out((model, &trainable.context), &next, (0, 0))).unwrap().groups
    });
    (groups, submitted.into_inner(), asked.into_inner())
}

#[test]
fn all_requests_of_a_stage_form_one_batch() {
    let mut config = config();
    (config.reward.targets_per_stage, config.reward.transfer_per_stage) = (2, 2);
    let (groups, _, asked) = step(&config, false);
    assert_eq!(asked.len(), 2, "one batch for each stage");
    for (stage, batch) in asked.iter().enumerate() {
        let samples = groups.iter().filter(|g| g.stage == stage).flat_map(|g| &g.samples);
        let judged = samples.filter(|sample| sample.reward.well_formed).count();
        let of_terms = batch.iter().filter(|request| request.judge.as_deref() == Some("second")).count();
        assert_eq!((batch.len(), of_terms), (4 * judged, 2 * judged));
    }
    for sample in groups.iter().flat_map(|g| &g.samples) {
        assert_eq!(sample.verdicts.len(), if sample.reward.well_formed { 2 } else { 0 });
        let mean = sample.verdicts.iter().map(|v| v.p_chosen).sum::<f64>() / 2.0;
        assert_eq!(sample.p_chosen.is_some(), sample.reward.well_formed);
        assert_within!(sample.p_chosen.unwrap_or(mean) - mean, 1e-12);
    }
    let transferred = groups.iter().flat_map(|g| &g.samples).filter(|s| s.reward.scores[1] > 0.0).count();
    assert!(transferred > groups.len());
}

#[test]
fn what_judges_answer_in_advance_is_what_is_asked_later_and_changes_nothing() {
    let config = config();
    let (groups, submitted, asked) = step(&config, true);
    assert_eq!(submitted.len(), groups.len(), "each group as soon as it is finished");
    let all = |batches: &[Vec<PanelRequest>]| batches.iter().flatten().cloned().collect::<HashSet<PanelRequest>>();
    assert_eq!(all(&submitted), all(&asked));
    let (same, none, again) = step(&config, false);
    assert!(none.is_empty());
    assert_eq!((same, again), (groups, asked));
}

#[test]
fn groups_know_the_choices_in_other_domains_the_past_targets_and_the_reference() {
    let mut config = config();
    config.reward.transfer_per_stage = 2;
    let trainable = trainable(&config, None);
    let groups = rolled_out(&config, &trainable);
    let rows = rows(8);
    let mut drawn = HashSet::new();
    for group in &groups {
        let row = rows.iter().find(|row| row.uid == group.uid).unwrap();
        let distinct: HashSet<_> = group.input.transfer.iter().collect();
        assert!(distinct.len() == 2 && distinct.iter().all(|target| row.transfer.contains(target)));
        drawn.insert(group.input.transfer.iter().map(|target| target.chosen.clone()).collect::<Vec<_>>());
        let past = group.parent.map_or(&[][..], |parent| &groups[parent.group].input.targets[..]);
        assert_eq!(group.input.past_targets, past);
        assert_eq!(group.input.reference, None);
    }
    assert!(drawn.len() > 4, "{drawn:?}");
    config.reward.transfer_per_stage = 0;
    assert!(rolled_out(&config, &trainable).iter().all(|group| group.input.transfer.is_empty()));

    let mut row = rows[0].clone();
    row.references = vec!["Likes boats.".into()];
    assert_eq!([0, 1].map(|stage| row.reference_of(stage)), [Some("Likes boats."); 2]);
    row.references.push("Likes quiet boats.".into());
    assert_eq!(
        [0, 1, 2].map(|stage| row.reference_of(stage)),
        [Some("Likes boats."), Some("Likes quiet boats."), None]
    );
}

#[test]
fn a_step_logs_what_each_judge_did() {
    let config = config();
    let (rows, mut trainable, place) = (rows(8), trainable(&config, None), tempfile::tempdir().unwrap());
    let calls = Cell::new(0);
    let stats = || {
        calls.set(calls.get() + 1);
        let of = |judge: &str, cost| JudgeStats {
            judge: judge.into(),
            requests: 24,
            hits: 3,
            tokens: 700,
            seconds: 0.5,
            cost,
        };
        vec![of("near", None), of("far", Some(0.25))]
    };
    let mut run = trainer::Run::create(place.path(), "").unwrap();
    with_rollouts(&config, |rollouts| {
        let rollouts = Rollouts { stats: Some(&stats), ..rollouts };
        let mut output = trainer::Output { run: &mut run, phase: "rl", checkpoints: None, progress: &mut |_, _, _| {} };
        grpo::train(&mut trainable, &rows, rollouts, None, None, None, &mut output).unwrap();
    });
    let text = std::fs::read_to_string(place.path().join("metrics.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let of = |key: &str| line[key].as_f64();
    assert_eq!(
        (of("judge/near/requests"), of("judge/near/hits"), of("judge/near/cost")),
        (Some(24.0), Some(3.0), None)
    );
    assert_eq!(
        (of("judge/far/tokens"), of("judge/far/seconds"), of("judge/far/cost")),
        (Some(700.0), Some(0.5), Some(0.25))
    );
    assert_eq!(calls.get(), 2, "once for each step");
}
