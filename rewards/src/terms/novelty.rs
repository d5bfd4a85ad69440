//! Reward term `novelty`.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::batch::RewardBatch;
use crate::error::RewardError;
use crate::terms::RewardTerm;
use crate::words::{jaccard, words};

/// 1 − the mean Jaccard index of the summary's words and those of each other well-formed summary of the group. It keeps the summaries
/// of a group apart, so that they can be compared.
///
/// Range: 0 (all summaries have the same words) to 1 (no word in common). A malformed response gets 0, and is not compared with. The
/// only well-formed summary of a group gets 1. Empty summaries are equal to each other and have nothing in common with others. Source:
/// pairwise similarity within a set of samples, as Self-BLEU (Zhu et al., arXiv 1802.01886).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Novelty {}

impl RewardTerm for Novelty {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let mut groups: BTreeMap<usize, Vec<(usize, HashSet<String>)>> = BTreeMap::new();
        for (index, response) in batch.responses.iter().enumerate() {
            if let Some(summary) = response.summary() {
                let words = words(summary).into_iter().collect();
                groups.entry(response.group).or_default().push((index, words));
            }
        }
        let mut scores = vec![0.0; batch.responses.len()];
        for group in groups.values() {
            for (index, own) in group {
                let others = group.iter().filter(|(other, _)| other != index).map(|(_, words)| jaccard(own, words));
                let (sum, count) = others.fold((0.0, 0.0), |(sum, count), similarity| (sum + similarity, count + 1.0));
                scores[*index] = if count > 0.0 { 1.0 - sum / count } else { 1.0 };
            }
        }
        Ok(scores)
    }
}
