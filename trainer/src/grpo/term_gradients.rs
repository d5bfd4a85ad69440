//! Gradients of the terms of a reward on the samples of a step: do they point in the same direction?
//!
//! The gradient of a term is the policy gradient of its own advantages: what it adds to the rewards, compared within each group,
//! without the credit of later stages. The old log-probabilities are those of the model itself, so no ratio is clipped, and the KL
//! and entropy terms of the loss are left out. `total` has the advantages of the step, with credit and the penalties of the reward.
//! Importance-sampling weights of the configuration apply to all. All samples of the step form one batch.
//!
//! Cost: with n gradients (one per term, and one of the whole reward), 1 + n(n − 1)/2 forward and backward passes over the samples.
//! Memory: the gradient buffer of training, and one copy of it in fp32.

use configs::rl::RlConfig;
use configs::rl::algorithm::OldLogprobs;
use rewards::group_advantages;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::advantages::StepAdvantages;
use super::group::Group;
use super::update;
use crate::TrainError;
use crate::trainable_model::TrainableModel;

/// Number of elements that are multiplied at once, so that the products need little memory.
const CHUNK: i64 = 1 << 24;

/// What a term adds to the rewards, by group and sample.
#[derive(Clone, Debug, PartialEq)]
pub struct TermRewards {
    /// Name of the term.
    pub name: String,
    /// What it adds to the reward of each sample, in the shape of the groups.
    pub rewards: Vec<Vec<f64>>,
}

/// The norms of gradients, and the cosine similarity of each two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GradientSimilarity {
    /// The names, in the order of the others.
    pub names: Vec<String>,
    /// Euclidean norms.
    pub norms: Vec<f64>,
    /// Cosines of the angles between each two; `None` if one of the gradients is 0, as that of a term that is constant within every
    /// group.
    pub cosines: Vec<Vec<Option<f64>>>,
    /// The number of forward and backward passes over the samples.
    pub passes: usize,
}

/// Computes the gradients of `terms`, and of advantages under the name `total`, and the cosines between them. Clears the gradients of
/// `trainable`.
///
/// # Errors
/// [`TrainError::Data`] if no sample takes part, or if memory cannot be allocated.
pub fn term_gradients(
    trainable: &TrainableModel,
    groups: &[Group],
    terms: &[TermRewards],
    total: &StepAdvantages,
    config: &RlConfig,
) -> Result<GradientSimilarity, TrainError> {
    let config = on_policy(config);
    let mut groups = groups.to_vec();
    let places = places(&groups, &config);
    if places.is_empty() {
        return Err(TrainError::Data(
            "no sample takes part in the update, so there are no gradients: the responses are empty, or all were truncated \
             and algorithm.mask_truncated is set"
                .into(),
        ));
    }
    let (seen, _) = update::policy_logprobs(trainable, &groups, &places, &config)?;
    for (&(g, i), seen) in places.iter().zip(seen) {
        groups[g].samples[i].old = seen.logprobs;
    }
    let mut columns: Vec<(String, StepAdvantages)> =
        terms.iter().map(|term| (term.name.clone(), of_term(term, &groups, &config))).collect();
    columns.push(("total".into(), total.clone()));
    let live: Vec<usize> = (0..columns.len()).filter(|&c| is_live(&columns[c].1, &places)).collect();
    let gradient = |c: usize| -> Result<(), TrainError> {
        clear(trainable);
        let samples = update::train_samples(&groups, &columns[c].1, &places, &config);
        update::accumulate(trainable, &samples, &config, config.seed)?;
        Ok(())
    };
    let (products, passes) = gram(trainable, &live, gradient)?;
    clear(trainable);
    Ok(similarity(columns.into_iter().map(|(name, _)| name).collect(), &live, &products, passes))
}

/// Returns the configuration whose loss is the policy gradient alone, at a ratio of 1.
fn on_policy(config: &RlConfig) -> RlConfig {
    let mut config = config.clone();
    config.algorithm.old_logprobs = OldLogprobs::Recompute;
    config.algorithm.kl.coefficient = 0.0;
    config.algorithm.entropy_coefficient = 0.0;
    config
}

/// Returns the samples that an update could use.
fn places(groups: &[Group], config: &RlConfig) -> Vec<(usize, usize)> {
    let all = groups.iter().enumerate().flat_map(|(g, group)| (0..group.samples.len()).map(move |i| (g, i)));
    all.filter(|&(g, i)| {
        let sample = &groups[g].samples[i];
        let masked = sample.truncated && config.algorithm.mask_truncated;
        !masked && !sample.ids.is_empty()
    })
    .collect()
}

/// Returns the advantages of a term on its own.
fn of_term(term: &TermRewards, groups: &[Group], config: &RlConfig) -> StepAdvantages {
    let mut found = group_advantages(&term.rewards, config.algorithm.advantage, config.algorithm.advantage_eps);
    for (group, advantages) in groups.iter().zip(&mut found.groups) {
        advantages.iter_mut().for_each(|a| *a *= config.reward.stage_weight(group.stage));
    }
    StepAdvantages {
        rewards: term.rewards.clone(),
        carried: term.rewards.iter().map(|group| vec![0.0; group.len()]).collect(),
        advantages: found.groups,
        zero_variance: found.zero_variance,
    }
}

fn is_live(advantages: &StepAdvantages, places: &[(usize, usize)]) -> bool {
    places.iter().any(|&(g, i)| advantages.advantages[g][i] != 0.0)
}

fn clear(trainable: &TrainableModel) {
    let _ = tch::no_grad(|| trainable.gradients().shallow_clone().zero_());
}

/// Returns the products of each two of the gradients that `gradient` accumulates, as a matrix over `live`, and the number of passes.
fn gram(
    trainable: &TrainableModel,
    live: &[usize],
    gradient: impl Fn(usize) -> Result<(), TrainError>,
) -> Result<(Vec<Vec<f64>>, usize), TrainError> {
    let n = live.len();
    let (mut products, mut passes) = (vec![vec![0.0; n]; n], 0);
    #[allow(clippy::needless_range_loop, reason = "a pass fills a row and a column")]
    for a in 0..n {
        // The last pass of the previous round left this gradient in the buffer.
        if a == 0 {
            gradient(live[0])?;
            passes += 1;
        }
        let own = tch::no_grad(|| trainable.gradients().to_dtype(Kind::Float, false, true));
        products[a][a] = product(&own, &own)?;
        for b in (a + 1..n).rev() {
            gradient(live[b])?;
            passes += 1;
            products[a][b] = product(&own, trainable.gradients())?;
            products[b][a] = products[a][b];
        }
    }
    Ok((products, passes))
}

/// Returns the scalar product of two flat tensors; each chunk is summed in double precision.
fn product(a: &Tensor, b: &Tensor) -> Result<f64, TrainError> {
    let n = a.numel() as i64;
    let (a, b) = (a.view([-1]), b.view([-1]));
    let mut sum = 0.0;
    let mut begin = 0;
    while begin < n {
        let length = CHUNK.min(n - begin);
        let part = |t: &Tensor| t.narrow(0, begin, length).to_kind(Kind::Float);
        let products = tch::no_grad(|| part(&a) * part(&b));
        sum += f64::try_from(products.sum(Kind::Double))?;
        begin += length;
    }
    Ok(sum)
}

/// Returns norms and cosines of all columns from the products of the live ones.
fn similarity(names: Vec<String>, live: &[usize], products: &[Vec<f64>], passes: usize) -> GradientSimilarity {
    let n = names.len();
    let (mut norms, mut cosines) = (vec![0.0; n], vec![vec![None; n]; n]);
    for (a, &i) in live.iter().enumerate() {
        norms[i] = products[a][a].sqrt();
        for (b, &j) in live.iter().enumerate() {
            let lengths = (products[a][a] * products[b][b]).sqrt();
            cosines[i][j] = (lengths > 0.0).then(|| (products[a][b] / lengths).clamp(-1.0, 1.0));
        }
    }
    GradientSimilarity { names, norms, cosines, passes }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn similarity_by_hand() {
        // Gradients (3, 4), 0 and (4, 3): norms 5, 0 and 5; the cosine of the first and the last is 24/25.
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        let found = similarity(names, &[0, 2], &[vec![25.0, 24.0], vec![24.0, 25.0]], 2);
        assert_eq!(found.norms, [5.0, 0.0, 5.0]);
        assert_within!(found.cosines[0][2].unwrap() - 0.96, 1e-12);
        assert_eq!(found.cosines[0][0], Some(1.0));
        assert_eq!((found.cosines[1].as_slice(), found.cosines[2][1]), (&[None, None, None][..], None));
    }

    #[test]
    fn products_are_those_of_the_flat_elements() {
        let a = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let b = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.25]);
        // 0.5 − 2 + 6 + 1.
        assert_within!(product(&a, &b).unwrap() - 5.5, 1e-12);
    }
}
