//! Samples tokens on the device of the probabilities, for devices from which copying them would take longer than a layer.
//!
//! Applies the same rules in the same order as [`crate::sampling::sample`], also in float64.

use chat::Sampling;
use tch::{Kind, Tensor};

use crate::head::CHUNK_ELEMENTS;
use crate::sampling::truncates;

/// Samples one token per row, one piece of the rows at a time, because the rules below need several float64 copies of a piece.
pub(super) fn sample_rows(probabilities: &Tensor, samplings: &[&Sampling], uniforms: &[f64]) -> Tensor {
    let (rows, vocab) = (probabilities.size()[0], probabilities.size()[1]);
    let step = (CHUNK_ELEMENTS / vocab).max(1);
    let piece = |begin: i64| {
        let count = step.min(rows - begin);
        let range = begin as usize..(begin + count) as usize;
        sample_piece(&probabilities.narrow(0, begin, count), &samplings[range.clone()], &uniforms[range])
    };
    Tensor::cat(&(0..rows).step_by(step as usize).map(piece).collect::<Vec<_>>(), 0)
}

/// Samples one token per row. `probabilities`: [rows, vocab], fp32, from which each row samples. `uniforms`: in [0, 1), one per
/// row. Returns [rows], int64, on the same device.
fn sample_piece(probabilities: &Tensor, samplings: &[&Sampling], uniforms: &[f64]) -> Tensor {
    let vocab = probabilities.size()[1];
    let drawn = probabilities.argmax(-1, false);
    let put = |rows: &[usize], draw: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
        if rows.is_empty() {
            return;
        }
        let column = |values: Vec<f64>| torch_ext::upload(&values, probabilities.device()).unsqueeze(-1);
        let u = column(rows.iter().map(|&row| uniforms[row]).collect());
        if rows.len() == samplings.len() {
            drawn.shallow_clone().copy_(&draw(probabilities, &u));
            return;
        }
        let at: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let at = torch_ext::upload(&at, probabilities.device());
        let _ = drawn.shallow_clone().index_copy_(0, &at, &draw(&probabilities.index_select(0, &at), &u));
    };
    let rows_where = |f: &dyn Fn(&Sampling) -> bool| -> Vec<usize> {
        (0..samplings.len()).filter(|&row| samplings[row].temperature > 0.0 && f(samplings[row])).collect()
    };
    put(&rows_where(&|s| !truncates(s, vocab as usize)), &|p, u| invert(&p.to_kind(Kind::Double), u));
    let cut = rows_where(&|s| truncates(s, vocab as usize));
    let limits = |f: &dyn Fn(&Sampling) -> f64| {
        let values: Vec<f64> = cut.iter().map(|&row| f(samplings[row])).collect();
        torch_ext::upload(&values, probabilities.device()).unsqueeze(-1)
    };
    put(&cut, &|p, u| {
        let (p, order) = p.sort_stable(true, -1, true);
        let (least, p) = (p.narrow(-1, 0, 1), p.to_kind(Kind::Double));
        let rank = Tensor::arange(vocab, (Kind::Double, p.device()));
        let top_k = limits(&|s| if s.top_k == 0 { f64::INFINITY } else { s.top_k as f64 });
        let p = &p * rank.lt_tensor(&top_k).to_kind(Kind::Double);
        let reached = p.cumsum(-1, Kind::Double);
        let wanted = limits(&|s| s.top_p) * reached.narrow(-1, vocab - 1, 1);
        // The token that crosses top_p is kept.
        let p = &p * (&reached - &p).lt_tensor(&wanted).to_kind(Kind::Double);
        let least = (limits(&|s| s.min_p).to_kind(Kind::Float) * least).to_kind(Kind::Double);
        let p = &p * p.ge_tensor(&least).to_kind(Kind::Double);
        order.gather(-1, &invert(&p, u).unsqueeze(-1), false).squeeze_dim(-1)
    });
    drawn
}

/// Returns the first index at which the cumulative sum of a row exceeds `u` times its total, [rows].
fn invert(p: &Tensor, u: &Tensor) -> Tensor {
    let reached = p.cumsum(-1, Kind::Double);
    let goal = u * reached.narrow(-1, reached.size()[1] - 1, 1);
    let passed = reached.le_tensor(&goal).sum_dim_intlist(-1, false, Kind::Int64);
    // Rounding may leave no index beyond the goal. Then the last token with a nonzero probability is sampled.
    let chances = Tensor::arange(p.size()[1], (Kind::Int64, p.device())) * p.gt(0.0).to_kind(Kind::Int64);
    passed.minimum(&chances.amax(-1, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{argmax, sample, uniform};

    /// Rows of every kind, including ties and tokens with probability zero: the same tokens as the host sampler.
    #[test]
    fn it_draws_what_the_other_way_draws() {
        let all = Sampling::all(1);
        let kinds = [
            all.clone(),
            Sampling { temperature: 0.0, ..all.clone() },
            Sampling { top_k: 3, ..all.clone() },
            Sampling { top_p: 0.6, ..all.clone() },
            Sampling { top_k: 5, top_p: 0.5, ..all.clone() },
            Sampling { min_p: 0.3, ..all.clone() },
            Sampling { top_k: 40, min_p: 0.05, top_p: 0.95, ..all },
        ];
        let (vocab, rounds) = (37, 200);
        for only in (0..kinds.len()).map(Some).chain([None]) {
            let samplings: Vec<&Sampling> = match only {
                Some(one) => vec![&kinds[one]; kinds.len()],
                None => kinds.iter().collect(),
            };
            for round in 0..rounds {
                let numbers: Vec<f32> = (0..vocab * samplings.len())
                    .map(|i| (uniform(round, i as u64) * 12.0).floor() as f32 / 2.0 - 1.0)
                    .map(|x| if x < 0.0 { f32::NEG_INFINITY } else { x })
                    .collect();
                let logits = Tensor::from_slice(&numbers).view([samplings.len() as i64, vocab as i64]);
                let p = logits.softmax(-1, Kind::Float);
                let uniforms: Vec<f64> = (0..samplings.len()).map(|i| uniform(1000 + round, i as u64)).collect();
                let got = Vec::<i64>::try_from(sample_rows(&p, &samplings, &uniforms)).unwrap();
                for (row, sampling) in samplings.iter().enumerate() {
                    let p = Vec::<f32>::try_from(p.get(row as i64)).unwrap();
                    let expected =
                        if sampling.temperature > 0.0 { sample(&p, sampling, uniforms[row]) } else { argmax(&p) };
                    assert_eq!(got[row], expected as i64, "round {round}, {sampling:?}");
                }
            }
        }
    }
}
