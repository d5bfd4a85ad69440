//! Rewards of responses, term by term, and their statistics.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::rank_correlation::spearman;

/// A rank correlation of two columns; `None` if one of them is constant.
type Correlation<'a> = dyn Fn(&[f64], &[f64]) -> Option<f64> + 'a;

/// The reward of one response.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredResponse {
    /// The step, counted from 1; 0 for given texts.
    pub step: u64,
    /// ID of the user.
    pub uid: String,
    /// Stage, from 0.
    pub stage: usize,
    /// Index of the group in its step.
    pub group: usize,
    /// Index of the response in the group.
    pub sample: usize,
    /// Whether the response passed the format gate.
    pub well_formed: bool,
    /// Probability that the panel picks the user's choices; `None` if the response is malformed.
    pub p_chosen: Option<f64>,
    /// Unweighted scores of the terms.
    pub scores: Vec<f64>,
    /// What each term adds to the total; all 0 if the response is malformed.
    pub parts: Vec<f64>,
    /// The reward.
    pub total: f64,
    /// The reward with the credit of later stages, minus penalties. Advantages are computed from it.
    pub credited: f64,
    /// The advantage.
    pub advantage: f64,
}

impl ScoredResponse {
    /// Returns what identifies the response.
    pub(super) fn place(&self) -> (u64, &str, usize, usize, usize) {
        (self.step, &self.uid, self.stage, self.group, self.sample)
    }
}

/// Rewards of the responses of some steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Names of the terms.
    pub names: Vec<String>,
    /// The responses: the groups of a step one after another.
    pub responses: Vec<ScoredResponse>,
}

/// Statistics of a term, or of the reward, over all responses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnSummary {
    /// Name of the term; `total` for the reward.
    pub name: String,
    /// Mean of the unweighted scores.
    pub mean: f64,
    /// Their standard deviation (n − 1); 0 for a single response.
    pub std: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Mean of what the term adds to the reward.
    pub part: f64,
    /// Number of groups in which all responses have the same value.
    pub constant_groups: usize,
}

/// Rank correlations between the columns of [`Scored::columns`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Correlations {
    /// Names of the columns.
    pub names: Vec<String>,
    /// Over all responses; `None` if one of the columns is constant.
    pub overall: Vec<Vec<Option<f64>>>,
    /// Within groups, which is what advantages compare: mean over the groups in which both columns vary; `None` without one.
    pub within_groups: Vec<Vec<Option<f64>>>,
}

impl Scored {
    /// Returns the values of each term, and of the reward under the name `total`.
    pub fn columns(&self) -> Vec<(String, Vec<f64>)> {
        let term = |(i, name): (usize, &String)| (name.clone(), self.responses.iter().map(|r| r.scores[i]).collect());
        let total = ("total".to_owned(), self.responses.iter().map(|r| r.total).collect());
        self.names.iter().enumerate().map(term).chain([total]).collect()
    }

    /// Returns the ranges of responses that form a group.
    pub fn groups(&self) -> Vec<std::ops::Range<usize>> {
        let mut begin = 0;
        let chunks = self.responses.chunk_by(|a, b| (a.step, a.group) == (b.step, b.group));
        chunks
            .map(|group| {
                begin += group.len();
                begin - group.len()..begin
            })
            .collect()
    }

    /// Returns the statistics of each column.
    pub fn summaries(&self) -> Vec<ColumnSummary> {
        let groups = self.groups();
        let parts = |i: usize| mean(self.responses.iter().map(|r| r.parts.get(i).copied().unwrap_or(r.total)));
        let summary = |(i, (name, values)): (usize, (String, Vec<f64>))| {
            let center = mean(values.iter().copied());
            let squares: f64 = values.iter().map(|v| (v - center).powi(2)).sum();
            let constant = |group: &&std::ops::Range<usize>| is_constant(&values[(*group).clone()]);
            ColumnSummary {
                name,
                mean: center,
                std: if values.len() > 1 { (squares / (values.len() as f64 - 1.0)).sqrt() } else { 0.0 },
                min: values.iter().copied().fold(f64::INFINITY, f64::min),
                max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                part: parts(i),
                constant_groups: groups.iter().filter(constant).count(),
            }
        };
        self.columns().into_iter().enumerate().map(summary).collect()
    }

    /// Returns the rank correlations between each two columns.
    pub fn correlations(&self) -> Correlations {
        let (columns, groups) = (self.columns(), self.groups());
        let matrix = |of: &Correlation<'_>| -> Vec<Vec<Option<f64>>> {
            columns.iter().map(|(_, a)| columns.iter().map(|(_, b)| of(a, b)).collect()).collect()
        };
        let within = |a: &[f64], b: &[f64]| {
            let found: Vec<f64> =
                groups.iter().filter_map(|group| spearman(&a[group.clone()], &b[group.clone()])).collect();
            (!found.is_empty()).then(|| mean(found.iter().copied()))
        };
        Correlations {
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            overall: matrix(&spearman),
            within_groups: matrix(&within),
        }
    }

    /// Returns the number of groups with zero variance, and of all groups.
    pub fn zero_variance(&self) -> (usize, usize) {
        let credited: Vec<f64> = self.responses.iter().map(|r| r.credited).collect();
        let groups = self.groups();
        (groups.iter().filter(|group| is_constant(&credited[(*group).clone()])).count(), groups.len())
    }

    /// Returns all of it as JSON, with the terms of each response by name.
    pub fn json(&self) -> Value {
        let named = |values: &[f64]| -> Map<String, Value> {
            self.names.iter().cloned().zip(values.iter().map(|value| json!(value))).collect()
        };
        let response = |r: &ScoredResponse| {
            json!({
                "step": r.step, "uid": r.uid, "stage": r.stage, "group": r.group, "sample": r.sample,
                "well_formed": r.well_formed, "p_chosen": r.p_chosen, "terms": named(&r.scores), "parts": named(&r.parts),
                "reward": r.total, "credited": r.credited, "advantage": r.advantage,
            })
        };
        let (zero_variance, groups) = self.zero_variance();
        json!({
            "groups": groups, "zero_variance": zero_variance, "columns": self.summaries(),
            "correlations": self.correlations(), "responses": self.responses.iter().map(response).collect::<Vec<_>>(),
        })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    sum / n
}

/// Returns whether all values are the same.
pub(super) fn is_constant(values: &[f64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    /// Two groups: (judge, brevity) of (0.2, 0.5), (0.4, 0.3), (0.9, 0.1) and of (0.5, 0.7), (0.5, 0.9).
    fn scored() -> Scored {
        let rows = [(0, 0.2, 0.5), (0, 0.4, 0.3), (0, 0.9, 0.1), (1, 0.5, 0.7), (1, 0.5, 0.9)];
        let response = |(sample, (group, judge, brevity)): (usize, (usize, f64, f64))| ScoredResponse {
            step: 3,
            uid: "u".into(),
            stage: 0,
            group,
            sample,
            well_formed: true,
            p_chosen: Some(judge),
            scores: vec![judge, brevity],
            parts: vec![judge, 0.5 * brevity],
            total: judge + 0.5 * brevity,
            credited: judge,
            advantage: 0.0,
        };
        let names = ["judge", "brevity"].map(str::to_owned).into();
        Scored { names, responses: rows.into_iter().enumerate().map(response).collect() }
    }

    #[test]
    fn statistics_by_hand() {
        let summaries = scored().summaries();
        let [judge, brevity, total] = &summaries[..] else { panic!("three columns") };
        // 0.2, 0.4, 0.9, 0.5, 0.5: mean 0.5, squares 0.09 + 0.01 + 0.16 = 0.26, over 4: 0.065.
        assert_within!(judge.mean - 0.5, 1e-12);
        assert_within!(judge.std - 0.065f64.sqrt(), 1e-12);
        assert_eq!((judge.min, judge.max, judge.constant_groups), (0.2, 0.9, 1));
        assert_within!(brevity.mean - 0.5, 1e-12);
        assert_within!(brevity.part - 0.25, 1e-12);
        assert_eq!(brevity.constant_groups, 0);
        assert_eq!(total.name, "total");
        assert_within!(total.mean - 0.75, 1e-12);
        assert_within!(total.part - 0.75, 1e-12);
        // By the rewards with credit, the second group is constant.
        assert_eq!(scored().zero_variance(), (1, 2));
    }

    #[test]
    fn correlations_overall_and_within_groups() {
        let found = scored().correlations();
        assert_eq!(found.names, ["judge", "brevity", "total"]);
        // Ranks of judge 1, 2, 5, 3.5, 3.5 and of brevity 3, 2, 1, 4, 5, around 3: products 0 + 1 − 4 + 0.5 + 1 = −1.5; squares
        // 4 + 1 + 4 + 0.25 + 0.25 = 9.5 and 10.
        assert_within!(found.overall[0][1].unwrap() + 1.5 / 95f64.sqrt(), 1e-12);
        assert_eq!(found.overall[0][1], found.overall[1][0]);
        // In the first group, the orders are opposite; in the second, the judge does not tell the responses apart.
        assert_within!(found.within_groups[0][1].unwrap() + 1.0, 1e-12);
        assert_within!(found.within_groups[0][0].unwrap() - 1.0, 1e-12);
    }

    #[test]
    fn the_json_names_the_terms() {
        let json = scored().json();
        assert_eq!(json["responses"][4]["terms"], json!({"judge": 0.5, "brevity": 0.9}));
        assert_eq!(json["responses"][4]["parts"]["brevity"], json!(0.45));
        assert_eq!((&json["groups"], &json["columns"][1]["name"]), (&json!(2), &json!("brevity")));
    }
}
