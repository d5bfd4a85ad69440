//! The mini-batches, micro-batches and token weights of a step of GRPO, computed from the lengths of its responses.

use std::path::Path;

use chat::records::{Checked, RowDefect};
use configs::RlConfig;
use configs::rl::algorithm::{Aggregation, Minibatches, OldLogprobs};
use rewards::Reward;
use serde::{Deserialize, Serialize};
use trainer::grpo::advantages::StepAdvantages;
use trainer::grpo::group::{Group, GroupInput, Sample};
use trainer::grpo::published_batches;
use trainer::grpo::update::{mini_batches, normalizer, train_samples};

use super::{Refusal, Rows};
use crate::error::Error;

/// A group of a step: the responses to one prompt. Rows are in the order of rollout.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRow {
    /// Stage, from 0.
    pub stage: usize,
    /// Length of the prompt in tokens.
    pub prompt_tokens: usize,
    /// Length of each response in tokens.
    pub response_tokens: Vec<usize>,
    /// Advantage of each response. If all are 0, the group has zero variance.
    pub advantages: Vec<f64>,
    /// Whether the length limit ended each response. Default: none.
    #[serde(default)]
    pub truncated: Vec<bool>,
}

impl Checked for GroupRow {
    fn defect(&self) -> Option<RowDefect> {
        let n = self.response_tokens.len();
        let defect = |field, message: String| Some(RowDefect { field, message });
        if n == 0 {
            return defect("response_tokens", "is empty; expected the length of each response of the group".into());
        }
        let (advantages, truncated) = (self.advantages.len(), self.truncated.len());
        if advantages != n {
            return defect("advantages", format!("has {advantages} entries; expected {n}, one per response"));
        }
        if truncated != 0 && truncated != n {
            return defect("truncated", format!("has {truncated} entries; expected none or {n}, one per response"));
        }
        None
    }
}

/// The place of a group's responses in the updates of the step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupPlaces {
    /// Stage, from 0.
    pub stage: usize,
    /// The responses, in order.
    pub responses: Vec<ResponsePlace>,
}

/// The place of a response. The last four are `None` for a response that the update leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ResponsePlace {
    /// The published rank, from 0; `None` if `algorithm.minibatches` is not `published`.
    pub rank: Option<usize>,
    /// The mini-batch, from 0: the optimizer update of the step.
    pub mini_batch: Option<usize>,
    /// The micro-batch, from 0, of the mini-batch (of the rank's part of it, if there is a rank); `None` if
    /// `algorithm.aggregation` is not `micro_batch_token_mean`.
    pub micro_batch: Option<usize>,
    /// The weight of the loss of each token.
    pub weight: Option<f64>,
    /// The derivative of the loss with respect to the log-probability of each token, where policy and old policy are equal.
    pub derivative: Option<f64>,
}

/// Returns the places of the groups of a file of JSON lines, or of standard input, which together are one step. If
/// `algorithm.num_iterations` is above 1, the places are those of the first pass.
///
/// # Errors
/// Returns an error if the input cannot be read, or if a row is not valid or does not fit `config`.
pub fn places(config: &RlConfig, input: Option<&Path>) -> Result<Vec<GroupPlaces>, Error> {
    let groups = Rows::read(input)?.map(|row: &GroupRow| {
        check(row, config)?;
        Ok((group(row, config), row.advantages.clone()))
    })?;
    let (groups, advantages): (Vec<Group>, Vec<Vec<f64>>) = groups.into_iter().unzip();
    Ok(places_of(&groups, advantages, config))
}

/// Checks what the configuration bounds.
fn check(row: &GroupRow, config: &RlConfig) -> Result<(), Refusal> {
    let rollout = &config.rollout;
    if row.stage >= rollout.stages {
        let message = format!("is {}; expected 0 to {} (rollout.stages − 1)", row.stage, rollout.stages - 1);
        return Err(Refusal::row("stage", message));
    }
    let limits = [
        ("prompt_tokens", row.prompt_tokens, "rollout.max_prompt_tokens", rollout.max_prompt_tokens),
        (
            "response_tokens",
            row.response_tokens.iter().copied().max().unwrap_or(0),
            "rollout.max_new_tokens",
            rollout.max_new_tokens,
        ),
    ];
    for (field, tokens, key, limit) in limits {
        if tokens > limit {
            return Err(Refusal::row(field, format!("has {tokens} tokens; expected at most {limit} ({key})")));
        }
    }
    Ok(())
}

/// Returns a group with responses of these lengths, whose tokens and log-probabilities have no meaning.
fn group(row: &GroupRow, config: &RlConfig) -> Group {
    let recomputed = config.algorithm.old_logprobs == OldLogprobs::Recompute;
    let sample = |(i, &length): (usize, &usize)| Sample {
        ids: vec![0; length],
        rollout: vec![0.0; length],
        old: if recomputed { vec![0.0; length] } else { Vec::new() },
        reference: Vec::new(),
        text: String::new(),
        truncated: row.truncated.get(i).copied().unwrap_or(false),
        p_chosen: None,
        verdicts: Vec::new(),
        no_answer: 0.0,
        reward: Reward { total: 0.0, scores: Vec::new(), parts: Vec::new(), well_formed: true },
    };
    Group {
        user: 0,
        uid: String::new(),
        stage: row.stage,
        continues: row.stage + 1 < config.rollout.stages,
        parent: None,
        prompt: vec![0; row.prompt_tokens],
        samples: row.response_tokens.iter().enumerate().map(sample).collect(),
        carried: Vec::new(),
        input: GroupInput::default(),
    }
}

fn places_of(groups: &[Group], advantages: Vec<Vec<f64>>, config: &RlConfig) -> Vec<GroupPlaces> {
    let algorithm = &config.algorithm;
    let published = algorithm.minibatches == Minibatches::Published;
    let averaged = algorithm.aggregation == Aggregation::MicroBatchTokenMean;
    let slots = if published { published_batches::slots(groups, algorithm, &config.rollout) } else { Vec::new() };
    let slot = |g: usize, i: usize| slots.get(g).map(|slots| slots[i]);
    let start = |(g, group): (usize, &Group)| GroupPlaces {
        stage: group.stage,
        responses: (0..group.samples.len())
            .map(|i| ResponsePlace { rank: slot(g, i).map(|slot| slot.rank), ..ResponsePlace::default() })
            .collect(),
    };
    let mut found: Vec<GroupPlaces> = groups.iter().enumerate().map(start).collect();
    // The updates do not read the rewards.
    let zero_variance = advantages.iter().map(|of_group| of_group.iter().all(|a| *a == 0.0)).collect();
    let advantages = StepAdvantages { rewards: Vec::new(), carried: Vec::new(), advantages, zero_variance };
    for (mini_batch, places) in mini_batches(groups, &advantages, config, (0, 0)).into_iter().enumerate() {
        let samples = train_samples(groups, &advantages, &places, config);
        let by = normalizer(&samples, config);
        for (&(g, i), sample) in places.iter().zip(&samples) {
            let weight = sample.weight(&by);
            let n = sample.row.response.len();
            let zeros = vec![0.0; n];
            let place = &mut found[g].responses[i];
            place.mini_batch = Some(mini_batch);
            place.micro_batch = averaged.then(|| slot(g, i).map_or(sample.micro_batch, |slot| slot.micro_batch));
            place.weight = Some(weight);
            place.derivative = sample.loss(0..n, &zeros, &zeros, weight, config).derivative.first().copied();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use configs::rl::algorithm::ZeroVariance;

    use super::*;

    /// Returns the places of two groups of two responses at each of two stages, after `change` to the published algorithm on two
    /// ranks, with two mini-batches and micro-batches of two responses.
    fn of(change: impl Fn(&mut RlConfig)) -> Vec<GroupPlaces> {
        let mut config = RlConfig::default();
        (config.rollout.users_per_step, config.rollout.num_generations) = (2, 2);
        let algorithm = &mut config.algorithm;
        (algorithm.minibatches, algorithm.published_ranks, algorithm.num_minibatches) = (Minibatches::Published, 2, 2);
        (algorithm.aggregation, algorithm.micro_batch_sequences) = (Aggregation::MicroBatchTokenMean, 2);
        change(&mut config);
        let row = |stage, prompt_tokens, response_tokens: [usize; 2], advantages: [f64; 2]| GroupRow {
            stage,
            prompt_tokens,
            response_tokens: response_tokens.into(),
            advantages: advantages.into(),
            truncated: vec![false, true],
        };
        let rows = [
            row(0, 100, [10, 20], [1.0, -1.0]),
            row(0, 100, [30, 100], [0.5, -0.5]),
            row(1, 50, [10, 10], [0.0, 0.0]),
            row(1, 50, [10, 10], [2.0, -2.0]),
        ];
        let groups: Vec<Group> = rows.iter().map(|row| group(row, &config)).collect();
        places_of(&groups, rows.iter().map(|row| row.advantages.clone()).collect(), &config)
    }

    fn place(rank: usize, mini_batch: usize, weight: f64, derivative: f64) -> ResponsePlace {
        ResponsePlace {
            rank: Some(rank),
            mini_batch: Some(mini_batch),
            micro_batch: Some(0),
            weight: Some(weight),
            derivative: Some(derivative),
        }
    }

    #[test]
    fn published_batches_as_worked_by_hand() {
        // Stage 0 has lengths 110, 120, 130 and 200. The pairs (130, 200) and (110, 120) differ by 70 and 10; 110 joins 200, and
        // 120 joins 130: partitions {0, 3} of 310 and {1, 2} of 250. Equal lengths of stage 1 give the same partitions. Rank 0 holds
        // stage 0 in the order 0, 3, 1, 2, two per mini-batch, which are one micro-batch: 10 + 100 and 20 + 30 tokens. A mini-batch
        // has two micro-batches, one per rank.
        let found = of(|_| ());
        let (w, v, u) = (1.0 / 220.0, 1.0 / 100.0, 1.0 / 40.0);
        assert_eq!(found[0].responses, [place(0, 0, w, -w), place(0, 1, v, v)]);
        assert_eq!(found[1].responses, [place(0, 1, v, -0.5 * v), place(0, 0, w, 0.5 * w)]);
        assert_eq!(found[2].responses, [place(1, 0, u, 0.0), place(1, 1, u, 0.0)]);
        assert_eq!(found[3].responses, [place(1, 1, u, -2.0 * u), place(1, 0, u, 2.0 * u)]);
    }

    #[test]
    fn responses_that_are_left_out_keep_their_rank_and_move_no_other() {
        let all = of(|_| ());
        let found = of(|config| config.algorithm.zero_variance = ZeroVariance::Drop);
        let out = ResponsePlace { rank: Some(1), ..ResponsePlace::default() };
        assert_eq!(found[2].responses, [out, out]);
        // The remaining 10 tokens of each micro-batch of stage 1 share its weight.
        assert_eq!(found[3].responses[0].weight, Some(1.0 / 20.0));
        assert_eq!(found[..2], all[..2]);
        let found = of(|config| config.algorithm.mask_truncated = true);
        assert_eq!(found[0].responses[1], ResponsePlace { rank: Some(0), ..ResponsePlace::default() });
    }

    #[test]
    fn other_algorithms_have_no_ranks() {
        let found = of(|config| {
            (config.algorithm.minibatches, config.algorithm.aggregation) =
                (Minibatches::Groups, Aggregation::TokenMean);
            config.algorithm.num_minibatches = 1;
        });
        // One mini-batch of 200 tokens.
        for place in found.iter().flat_map(|group| &group.responses) {
            assert_eq!((place.rank, place.mini_batch, place.micro_batch), (None, Some(0), None));
            assert_eq!(place.weight, Some(1.0 / 200.0));
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let row = GroupRow {
            stage: 2,
            prompt_tokens: 1,
            response_tokens: vec![5000],
            advantages: vec![0.0],
            truncated: Vec::new(),
        };
        let field = |row: &GroupRow| match check(row, &RlConfig::default()) {
            Err(Refusal::Row(defect)) => defect.field,
            _ => "none",
        };
        assert_eq!(field(&row), "stage");
        assert_eq!(field(&GroupRow { stage: 1, ..row.clone() }), "response_tokens");
        assert_eq!(GroupRow { advantages: vec![], ..row.clone() }.defect().unwrap().field, "advantages");
        assert_eq!(GroupRow { truncated: vec![true; 2], ..row }.defect().unwrap().field, "truncated");
    }
}
