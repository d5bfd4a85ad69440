//! Which numbers of a model a rank holds: an equal share of each part, so that a part comes together in one collective.

use std::ops::Range;

use dist::Share;
use lm::ModelSpec;
use lm::params::{self, Part};

use crate::optimizer::Stretch;

/// A part of a model, as it is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The part.
    pub part: Part,
    /// Where it begins in the whole model's buffer.
    pub begin: usize,
    /// How it is spread.
    pub share: Share,
    /// Where a rank's share of it begins among all it holds.
    pub at: usize,
}

/// How a model is spread over ranks, and which of them this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// The parts, in the order of the model's buffer.
    pub pieces: Vec<Piece>,
    /// This rank's place.
    pub rank: usize,
}

impl Shards {
    /// A model of this shape over `ranks` ranks.
    pub fn new(spec: &ModelSpec, rank: usize, ranks: usize) -> Self {
        let mut at = 0;
        let piece = |stretch: params::Stretch| {
            let share = Share { numel: stretch.numel as usize, ranks };
            at += share.length();
            Piece { part: stretch.part, begin: stretch.offset as usize, share, at: at - share.length() }
        };
        Self { pieces: params::parts(&params::layout(spec)).into_iter().map(piece).collect(), rank }
    }

    /// Numbers a rank holds, padding included.
    pub fn length(&self) -> usize {
        self.pieces.last().map_or(0, |last| last.at + last.share.length())
    }

    /// One part.
    pub fn piece(&self, part: Part) -> &Piece {
        self.pieces.iter().find(|piece| piece.part == part).expect("a part of this model")
    }

    /// This rank's numbers: where they stand in the whole model's buffer, and where among those it holds.
    pub fn own(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        self.pieces.iter().map(|piece| {
            let own = piece.share.of(self.rank);
            (piece.begin + own.start..piece.begin + own.end, piece.at)
        })
    }

    /// Stretches of the whole model's buffer, cut to what this rank holds. The weights they lead to are those of the whole
    /// model, or (`shared`) of this rank's share.
    pub fn cut(&self, whole: &[Stretch], shared: bool) -> Vec<Stretch> {
        let mut found = Vec::new();
        for (own, at) in self.own() {
            for stretch in whole {
                let begin = own.start.max(stretch.weights as usize);
                let end = own.end.min((stretch.weights + stretch.length) as usize);
                if begin >= end {
                    continue;
                }
                let state = (at + begin - own.start) as i64;
                let weights = if shared { state } else { begin as i64 };
                found.push(Stretch { weights, state, length: (end - begin) as i64, decays: stretch.decays });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_cut_at_the_borders_of_shares() {
        // Two parts of 100 and 40 numbers over two ranks: shares of 64 and 32.
        let share = |numel| Share { numel, ranks: 2 };
        let pieces = vec![
            Piece { part: Part::Embedding, begin: 0, share: share(100), at: 0 },
            Piece { part: Part::Head, begin: 100, share: share(40), at: 64 },
        ];
        let second = Shards { pieces, rank: 1 };
        assert_eq!(second.length(), 96);
        assert_eq!(second.own().collect::<Vec<_>>(), [(64..100, 0), (132..140, 64)]);
        let whole = |from: i64, to: i64, decays| Stretch { weights: from, state: from, length: to - from, decays };
        let cut = |shared| second.cut(&[whole(0, 90, true), whole(90, 140, false)], shared);
        let stretch = |weights, state, length, decays| Stretch { weights, state, length, decays };
        assert_eq!(cut(false), [stretch(64, 0, 26, true), stretch(90, 26, 10, false), stretch(132, 64, 8, false)]);
        assert_eq!(cut(true), [stretch(0, 0, 26, true), stretch(26, 26, 10, false), stretch(64, 64, 8, false)]);
    }
}
