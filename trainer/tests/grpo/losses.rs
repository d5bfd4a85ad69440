//! Every loss, ratio, aggregation, estimator and correction, compared with a float64 reference written from the papers'
//! formulas (`scripts/reference/policy_loss.py`), on ragged groups.

use configs::rl::algorithm::{Aggregation, KlEstimator, KlPlace, PolicyLoss, Ratio, RolloutCorrection};
use configs::rl::{AlgorithmConfig, RolloutConfig};
use python_reference::ask;
use serde_json::{Value as Json, json};
use tolerance::assert_within;
use trainer::grpo::importance_sampling;
use trainer::grpo::policy_loss::{Normalizer, PolicyLossInputs, sequence_loss};

/// The inputs of a response's loss; log-probabilities are fp32 values, as in training.
struct Sequence {
    logprobs: Vec<f32>,
    old: Vec<f32>,
    rollout: Vec<f32>,
    reference: Vec<f32>,
    entropy: Vec<f32>,
    advantage: f64,
}

/// Returns seven responses of 1 to 40 tokens whose ratios reach every bound.
fn sequences() -> Vec<Sequence> {
    let draw = chat::Draw::new(11);
    let near = |i: usize, what: &str, spread: f64| {
        let bits = draw.with(i as u64).text(what).bits();
        ((bits >> 11) as f64 * 2f64.powi(-53) - 0.5) * spread
    };
    let mut place = 0;
    let mut sequence = |length: usize, advantage: f64| {
        let tokens: Vec<usize> = (place..place + length).collect();
        place += length;
        let of = |what: &'static str, spread: f64| -> Vec<f32> {
            tokens.iter().map(|&t| (-2.0 + near(t, "old", 3.0) + near(t, what, spread)) as f32).collect()
        };
        Sequence {
            logprobs: of("now", 2.8),
            old: of("old alone", 0.0),
            rollout: of("rollout", 0.8),
            reference: of("reference", 1.5),
            entropy: tokens.iter().map(|&t| (1.0 + near(t, "entropy", 1.0)) as f32).collect(),
            advantage,
        }
    };
    [(5, 1.2), (1, -0.7), (40, -1.5), (3, 0.0), (17, 0.4), (2, -2.0), (9, 2.0)].map(|(n, a)| sequence(n, a)).into()
}

/// Number of responses in a micro-batch; the seven responses make three.
const MICRO_BATCH: usize = 3;

/// Number of micro-batches of a full mini-batch, whose ten responses are a quarter of those of five users.
const MICRO_BATCHES: usize = 4;

fn cases() -> Vec<AlgorithmConfig> {
    let mut cases = Vec::new();
    for loss in [PolicyLoss::Clip, PolicyLoss::Cispo] {
        for ratio in [Ratio::Token, Ratio::Sequence] {
            for (aggregation, aggregation_length) in [
                (Aggregation::TokenMean, 0),
                (Aggregation::SequenceMeanTokenMean, 0),
                (Aggregation::SequenceMeanTokenSum, 0),
                (Aggregation::Constant, 32),
                (Aggregation::MicroBatchTokenMean, 0),
            ] {
                for (estimator, place, coefficient) in [
                    (KlEstimator::K1, KlPlace::Loss, 0.3),
                    (KlEstimator::K2, KlPlace::Loss, 0.3),
                    (KlEstimator::K3, KlPlace::Loss, 0.3),
                    (KlEstimator::K3, KlPlace::Reward, 0.3),
                    (KlEstimator::K3, KlPlace::Loss, 0.0),
                ] {
                    for rollout_correction in
                        [RolloutCorrection::None, RolloutCorrection::Token, RolloutCorrection::Sequence]
                    {
                        let mut case =
                            AlgorithmConfig { loss, ratio, aggregation, aggregation_length, ..Default::default() };
                        case.micro_batch_sequences = MICRO_BATCH;
                        case.kl.estimator = estimator;
                        case.kl.place = place;
                        case.kl.coefficient = coefficient;
                        case.rollout_correction = rollout_correction;
                        case.rollout_correction_cap = 1.2;
                        // Cycles through the clip bounds, the dual clip (including none), and the entropy term with different
                        // periods.
                        let n = cases.len();
                        (case.clip_high, case.dual_clip) = [(0.2, 3.0), (0.28, 2.0), (0.2, 0.0)][n % 3];
                        case.clip_low = [0.2, 1.0, 0.1, 0.3][n % 4];
                        case.entropy_coefficient = [0.0, 0.05][n % 2];
                        cases.push(case);
                    }
                }
            }
        }
    }
    cases
}

fn asked(name: usize, case: &AlgorithmConfig, sequences: &[Sequence]) -> Json {
    let rows: Vec<Json> = sequences
        .iter()
        .enumerate()
        .map(|(i, s)| {
            json!({"micro_batch": i / MICRO_BATCH, "logprobs": s.logprobs, "old": s.old, "rollout": s.rollout,
                   "reference": s.reference, "entropy": s.entropy, "advantage": s.advantage, "masked": false})
        })
        .collect();
    json!({"name": name.to_string(), "loss": case.loss, "ratio": case.ratio, "aggregation": case.aggregation,
           "aggregation_length": case.aggregation_length.max(1), "micro_batches": MICRO_BATCHES,
           "clip_low": case.clip_low, "clip_high": case.clip_high, "dual_clip": case.dual_clip, "kl": case.kl,
           "entropy_coefficient": case.entropy_coefficient,
           "rollout_correction": case.rollout_correction, "rollout_correction_cap": case.rollout_correction_cap,
           "sequences": rows})
}

#[test]
fn all_variants_are_the_papers() {
    let (sequences, cases) = (sequences(), cases());
    assert_eq!(cases.len(), 300);
    let rollout = RolloutConfig { max_new_tokens: 64, users_per_step: 5, ..RolloutConfig::default() };
    let asked: Vec<Json> = cases.iter().enumerate().map(|(i, case)| asked(i, case, &sequences)).collect();
    let place = tempfile::tempdir().unwrap();
    let answers = ask("policy_loss.py", &json!({ "cases": asked }), place.path());
    let mut held = [0.0; 3];
    for (i, case) in cases.iter().enumerate() {
        let answer = &answers[i.to_string()];
        let responses = sequences.iter().enumerate().map(|(k, s)| (s.logprobs.len(), k / MICRO_BATCH));
        let by = Normalizer::new(case, &rollout, responses);
        let mut loss = 0.0;
        for (k, s) in sequences.iter().enumerate() {
            let correction = importance_sampling::weights(case, &s.old, &s.rollout);
            let response = PolicyLossInputs {
                logprobs: &s.logprobs,
                entropy: &s.entropy,
                old: &s.old,
                reference: Some(&s.reference),
                correction: correction.as_deref(),
                advantage: s.advantage,
            };
            let found = sequence_loss(response, by.weight(s.logprobs.len(), k / MICRO_BATCH), case);
            loss += found.sums.loss;
            held = [held[0] + found.sums.high, held[1] + found.sums.low, held[2] + found.sums.dual];
            let gradients = [("logprob_gradient", found.derivative.clone()), {
                ("entropy_gradient", vec![found.entropy_derivative; s.logprobs.len()])
            }];
            for (key, got) in gradients {
                for (t, got) in got.iter().enumerate() {
                    let want = answer[key][k][t].as_f64().unwrap();
                    let allowed = 1e-6 * want.abs().max(1e-3);
                    assert_within!(got - want, allowed, "{case:?}: {key} {k} {t}: {got}, {want}");
                }
            }
        }
        let want = answer["loss"].as_f64().unwrap();
        assert_within!(loss - want, 1e-6 * want.abs().max(1e-3), "{case:?}: {loss}, float64 reference {want}");
    }
    assert!(held.iter().all(|&n| n > 50.0), "every bound held some tokens back: {held:?}");
}
