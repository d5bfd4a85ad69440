//! How well a judge's probabilities match how often it is right, and how much they depend on the order of the items.

use rewards::Verdict;
use serde::{Deserialize, Serialize};

use crate::judging::accuracy;

/// One bin of a reliability curve: the verdicts whose confidence is above `low` and at most `high`. The first bin also holds `low`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The lower end of the bin.
    pub low: f64,
    /// The upper end of the bin.
    pub high: f64,
    /// The number of verdicts in the bin.
    pub verdicts: usize,
    /// Their mean confidence; `None` for an empty bin.
    pub confidence: Option<f64>,
    /// The share of them that are right; `None` for an empty bin.
    pub accuracy: Option<f64>,
}

/// The reliability curve of a judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// The expected calibration error: the mean over verdicts of |accuracy − confidence| of their bin; 0 without verdicts.
    pub ece: f64,
    /// Bins of equal width over confidences from 0.5 to 1.
    pub bins: Vec<ReliabilityBin>,
}

/// Computes the reliability curve of verdicts with the given probabilities of the user's choice (Guo et al., arXiv 1706.04599).
/// There are two items, so the confidence of a verdict is max(p, 1 − p), from 0.5 to 1. An undecided verdict counts as half right.
/// `bins` is at least 1.
pub fn reliability(p_chosen: &[f64], bins: usize) -> Reliability {
    let count = bins.max(1);
    let width = 0.5 / count as f64;
    let mut sums = vec![(0usize, 0.0, 0.0); count];
    for &p in p_chosen {
        let confidence = p.max(1.0 - p);
        let place = ((confidence - 0.5) / width).ceil() as usize;
        let (verdicts, confidences, right) = &mut sums[place.clamp(1, count) - 1];
        *verdicts += 1;
        *confidences += confidence;
        *right += accuracy(p);
    }
    let gaps: f64 = sums.iter().map(|(_, confidences, right)| (right - confidences).abs()).sum();
    let bin = |(i, &(verdicts, confidences, right)): (usize, &(usize, f64, f64))| {
        let mean = |sum: f64| (verdicts > 0).then(|| sum / verdicts as f64);
        let (low, high) = (0.5 + width * i as f64, 0.5 + width * (i + 1) as f64);
        ReliabilityBin { low, high, verdicts, confidence: mean(confidences), accuracy: mean(right) }
    };
    Reliability { ece: gaps / p_chosen.len().max(1) as f64, bins: sums.iter().enumerate().map(bin).collect() }
}

/// How much a judge's verdicts depend on the order of the items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderBias {
    /// The mean probability of the item shown first, minus one half; 0 for a judge without position bias.
    pub bias: f64,
    /// The share of questions for which the judge picks another item in the other order.
    pub flips: f64,
    /// The number of questions that were answered in both orders.
    pub questions: usize,
}

/// Computes the order bias over the verdicts with an answer in both orders; `None` if there is none.
pub fn order_bias(verdicts: &[Verdict]) -> Option<OrderBias> {
    let answered = |first: bool, verdict: &Verdict| {
        let found = verdict.orders.iter().find(|order| order.chosen_first == first && !order.malformed);
        found.map(|order| order.p_chosen)
    };
    let both = |verdict: &Verdict| Some((answered(true, verdict)?, answered(false, verdict)?));
    let pairs: Vec<(f64, f64)> = verdicts.iter().filter_map(both).collect();
    let count = pairs.len() as f64;
    let first: f64 = pairs.iter().map(|(first, second)| f64::midpoint(*first, 1.0 - second)).sum();
    let flips = pairs.iter().filter(|(first, second)| (first - 0.5) * (second - 0.5) < 0.0).count();
    (!pairs.is_empty()).then(|| OrderBias {
        bias: first / count - 0.5,
        flips: flips as f64 / count,
        questions: pairs.len(),
    })
}

#[cfg(test)]
mod tests {
    use rewards::judge::OrderVerdict;
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn the_calibration_error_by_hand() {
        // Two bins, 0.5 to 0.75 and 0.75 to 1. Confidences 0.6 (right), 0.7 (wrong): mean 0.65, half of them right. Confidences 0.9
        // (right), 0.8 (right), 0.95 (wrong): mean 2.65 / 3, two of three right. ECE = 2/5 · |0.5 − 0.65| + 3/5 · |2/3 − 0.88333|
        // = 0.06 + 0.13.
        let found = reliability(&[0.6, 0.3, 0.9, 0.8, 0.05], 2);
        assert_within!(found.ece - 0.19, 1e-12);
        let [low, high] = found.bins[..] else { panic!("{found:?}") };
        assert_eq!((low.low, low.high, low.verdicts, low.accuracy), (0.5, 0.75, 2, Some(0.5)));
        assert_eq!((high.low, high.high, high.verdicts), (0.75, 1.0, 3));
        assert_within!(low.confidence.unwrap() - 0.65, 1e-12);
        assert_within!(high.confidence.unwrap() - 2.65 / 3.0, 1e-12);
        assert_within!(high.accuracy.unwrap() - 2.0 / 3.0, 1e-12);
    }

    #[test]
    fn a_calibrated_judge_has_no_error_and_an_overconfident_one_has_its_excess() {
        // 3 of 4 verdicts of confidence 0.75 are right.
        assert_within!(reliability(&[0.75, 0.75, 0.75, 0.25], 10).ece, 1e-12);
        // Always certain, right half of the time.
        let sure = reliability(&[1.0, 0.0], 10);
        assert_eq!((sure.ece, sure.bins[9].verdicts), (0.5, 2));
        assert_eq!((sure.bins[0].confidence, sure.bins[0].accuracy), (None, None));
        // Undecided verdicts are half right with confidence one half.
        let undecided = reliability(&[0.5; 3], 10);
        assert_eq!((undecided.ece, undecided.bins[0].verdicts), (0.0, 3));
        assert_eq!((reliability(&[], 4).ece, reliability(&[], 0).bins.len()), (0.0, 1));
    }

    fn verdict(first: f64, second: f64) -> Verdict {
        let order = |chosen_first, p_chosen| OrderVerdict { chosen_first, p_chosen, malformed: false };
        let orders = vec![order(true, first), order(false, second)];
        Verdict { orders, ..Verdict::new(f64::midpoint(first, second)) }
    }

    #[test]
    fn the_order_bias_by_hand() {
        // Shown first: 0.9 and 1 − 0.3 (mean 0.8), 0.8 and 1 − 0.6 (mean 0.6). The first question flips.
        let found = order_bias(&[verdict(0.9, 0.3), verdict(0.8, 0.6)]).unwrap();
        assert_within!(found.bias - 0.2, 1e-12);
        assert_eq!((found.flips, found.questions), (0.5, 2));
        // A judge that only sees positions picks the first item; one that only sees the items has no bias.
        assert_within!(order_bias(&[verdict(0.97, 0.03)]).unwrap().bias - 0.47, 1e-12);
        assert_within!(order_bias(&[verdict(0.9, 0.9), verdict(0.2, 0.2)]).unwrap().bias, 1e-12);
    }

    #[test]
    fn questions_without_an_answer_in_both_orders_do_not_count() {
        let mut silent = verdict(0.9, 0.5);
        silent.orders[1].malformed = true;
        assert_eq!(order_bias(&[silent.clone(), Verdict::new(0.5)]), None);
        assert_eq!(order_bias(&[silent, verdict(0.8, 0.2)]).unwrap().questions, 1);
    }
}
