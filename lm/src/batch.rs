//! Packed batches: sequences concatenated without padding, with their boundaries. Sequences with a common prefix can share it.

use std::ops::Range;

use tch::{Device, Tensor};

use crate::LmError;

/// Concatenated segments. A segment is a sequence, a prefix that several sequences share, or a branch: the rest of a sequence
/// after its shared prefix. A branch attends to itself and to its prefix. Attention never crosses any other boundary.
#[derive(Debug)]
pub struct Packed {
    /// Token ids, `[tokens]`, int64.
    pub ids: Tensor,
    /// Position of each token in its sequence, `[tokens]`, int64.
    pub positions: Tensor,
    /// Cumulative lengths of the segments: 0, end of the first segment, …, tokens.
    pub cu_seqlens: Vec<i64>,
    /// For each segment, the index of the prefix that it continues, or -1 if it continues none.
    pub prefix_of: Vec<i64>,
    /// Name of each segment, from which its random numbers are derived (dropout). Default: the index of the segment.
    pub names: Vec<u64>,
}

/// Sequences that begin with the same tokens: each is `prefix` followed by one of `branches`.
#[derive(Clone, Debug)]
pub struct SharedPrefix<'a> {
    /// Tokens that the sequences share. If empty, the branches are ordinary sequences.
    pub prefix: &'a [u32],
    /// Tokens of each sequence after the prefix.
    pub branches: Vec<&'a [u32]>,
}

/// Location of a branch in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Index of the branch's segment, whose tokens are `cu_seqlens[segment]..cu_seqlens[segment + 1]`.
    pub segment: usize,
    /// Range of the branch's tokens in the batch.
    pub tokens: Range<i64>,
    /// Range of the tokens of the prefix that the branch continues.
    pub prefix: Option<Range<i64>>,
}

impl Branch {
    /// Returns the index in the batch of the token that predicts token `i` of the branch, or `None` for the first token of a
    /// sequence. The last token of the prefix predicts the first token of every branch.
    pub fn predictor(&self, i: i64) -> Option<i64> {
        if i > 0 { Some(self.tokens.start + i - 1) } else { self.prefix.as_ref().map(|p| p.end - 1) }
    }
}

impl Packed {
    /// Packs `sequences` for a model on `device`.
    ///
    /// # Errors
    /// If `sequences` is empty, or if a sequence is empty or longer than `max_positions`.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S], max_positions: usize, device: Device) -> Result<Self, LmError> {
        let mut packing = Packing::default();
        for (index, sequence) in sequences.iter().enumerate() {
            let sequence = sequence.as_ref();
            if sequence.is_empty() || sequence.len() > max_positions {
                let length = sequence.len();
                return Err(LmError::Request(format!(
                    "sequence {index} of the batch has {length} tokens; the model takes 1 to {max_positions}"
                )));
            }
            packing.push(sequence, 0, -1);
        }
        packing.finish(device)
    }

    /// Packs groups of sequences that share a prefix: the tokens of each prefix once, then those of its branches. The model
    /// computes the same outputs as for each full sequence, except where its rotary embedding depends on the sequence length
    /// ([`crate::Rope::varies_with_length`]).
    ///
    /// # Errors
    /// If there is no branch, if a group has no branches, if a branch is empty, or if a prefix and its branch together are longer
    /// than `max_positions`.
    pub fn with_shared_prefixes(
        groups: &[SharedPrefix<'_>],
        max_positions: usize,
        device: Device,
    ) -> Result<Self, LmError> {
        let mut packing = Packing::default();
        for (index, SharedPrefix { prefix, branches }) in groups.iter().enumerate() {
            if branches.is_empty() {
                return Err(LmError::Request(format!("group {index} of the batch has no branches")));
            }
            let of = if prefix.is_empty() { -1 } else { packing.push(prefix, 0, -1) };
            for (b, branch) in branches.iter().enumerate() {
                let (shared, own) = (prefix.len(), branch.len());
                if branch.is_empty() || shared + own > max_positions {
                    return Err(LmError::Request(format!(
                        "branch {b} of group {index} has {own} tokens after a prefix of {shared}; expected at \
                         least 1, and at most {max_positions} in total"
                    )));
                }
                packing.push(branch, shared, of);
            }
        }
        packing.finish(device)
    }

    /// Sets the names of the segments, so that random numbers depend on what is packed and not on how it is packed.
    pub fn named(mut self, names: Vec<u64>) -> Self {
        assert_eq!(names.len(), self.names.len(), "a name for each segment");
        self.names = names;
        self
    }

    /// Returns the total number of tokens.
    pub fn tokens(&self) -> i64 {
        self.cu_seqlens[self.cu_seqlens.len() - 1]
    }

    /// Returns the index of each segment's last token, `[segments]`, int64.
    pub fn last_tokens(&self) -> Tensor {
        let last: Vec<i64> = self.cu_seqlens[1..].iter().map(|end| end - 1).collect();
        torch_ext::upload(&last, self.ids.device())
    }

    /// Returns all sequences in the order in which they were given: the branch of each, or all of a sequence without a prefix.
    pub fn branches(&self) -> Vec<Branch> {
        let tokens = |segment: usize| self.cu_seqlens[segment]..self.cu_seqlens[segment + 1];
        let branch = |(segment, &of): (usize, &i64)| Branch {
            segment,
            tokens: tokens(segment),
            prefix: usize::try_from(of).ok().map(tokens),
        };
        self.prefix_of.iter().enumerate().filter(|&(s, _)| !self.is_prefix(s)).map(branch).collect()
    }

    /// Returns whether any segment continues another.
    pub(crate) fn shares(&self) -> bool {
        self.prefix_of.iter().any(|&of| of >= 0)
    }

    /// Returns, for each segment, its number of tokens and the length of its sequence. For a prefix, that is the longest sequence.
    pub(crate) fn runs(&self) -> Vec<(i64, i64)> {
        let own: Vec<i64> = self.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).collect();
        let mut whole = own.clone();
        for (s, &of) in self.prefix_of.iter().enumerate() {
            if let Ok(of) = usize::try_from(of) {
                whole[s] += own[of];
                whole[of] = whole[of].max(whole[s]);
            }
        }
        own.into_iter().zip(whole).collect()
    }

    /// Returns whether a segment is a prefix. The branches of a prefix come right after it.
    fn is_prefix(&self, segment: usize) -> bool {
        self.prefix_of.get(segment + 1) == Some(&(segment as i64))
    }
}

/// A batch under construction.
#[derive(Default)]
struct Packing {
    ids: Vec<i64>,
    positions: Vec<i64>,
    ends: Vec<i64>,
    prefix_of: Vec<i64>,
}

impl Packing {
    /// Appends a segment whose first token has `position`, and returns the index of the segment.
    fn push(&mut self, tokens: &[u32], position: usize, prefix_of: i64) -> i64 {
        self.ids.extend(tokens.iter().map(|&id| i64::from(id)));
        self.positions.extend((position..position + tokens.len()).map(|p| p as i64));
        self.ends.push(self.ids.len() as i64);
        self.prefix_of.push(prefix_of);
        self.prefix_of.len() as i64 - 1
    }

    fn finish(self, device: Device) -> Result<Packed, LmError> {
        if self.ids.is_empty() {
            return Err(LmError::Request("a batch needs at least one sequence".into()));
        }
        let tensor = |values: &[i64]| torch_ext::upload(values, device);
        let (ids, positions) = (tensor(&self.ids), tensor(&self.positions));
        let cu_seqlens = std::iter::once(0).chain(self.ends).collect();
        let names = (0..self.prefix_of.len() as u64).collect();
        Ok(Packed { ids, positions, cu_seqlens, prefix_of: self.prefix_of, names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(groups: &[(&[u32], &[&[u32]])]) -> Result<Packed, LmError> {
        let groups: Vec<SharedPrefix<'_>> =
            groups.iter().map(|&(prefix, branches)| SharedPrefix { prefix, branches: branches.to_vec() }).collect();
        Packed::with_shared_prefixes(&groups, 5, Device::Cpu)
    }

    #[test]
    fn branches_go_on_where_their_prefix_ends() {
        let batch = pack(&[(&[1, 2], &[&[3, 4, 5], &[6]]), (&[], &[&[7, 8], &[9]]), (&[10], &[&[11]])]).unwrap();
        assert_eq!(Vec::<i64>::try_from(&batch.ids).unwrap(), (1..=11).collect::<Vec<_>>());
        assert_eq!(Vec::<i64>::try_from(&batch.positions).unwrap(), [0, 1, 2, 3, 4, 2, 0, 1, 0, 0, 1]);
        assert_eq!(batch.cu_seqlens, [0, 2, 5, 6, 8, 9, 10, 11]);
        assert_eq!(batch.prefix_of, [-1, 0, 0, -1, -1, -1, 5]);
        assert_eq!(batch.runs(), [(2, 5), (3, 5), (1, 3), (2, 2), (1, 1), (1, 2), (1, 2)]);
        let found = batch.branches();
        let segments: Vec<usize> = found.iter().map(|b| b.segment).collect();
        assert_eq!(segments, [1, 2, 3, 4, 6]);
        assert_eq!(found[1], Branch { segment: 2, tokens: 5..6, prefix: Some(0..2) });
        assert_eq!([0, 1, 2].map(|i| found[0].predictor(i)), [Some(1), Some(2), Some(3)]);
        assert_eq!([0, 1].map(|i| found[2].predictor(i)), [None, Some(6)]);
    }

    #[test]
    fn plain_sequences_are_branches_without_prefix() {
        let batch = Packed::new(&[vec![1, 2], vec![3]], 5, Device::Cpu).unwrap();
        assert_eq!(batch.prefix_of, [-1, -1]);
        assert_eq!(batch.runs(), [(2, 2), (1, 1)]);
        assert!(!batch.shares());
        let tokens: Vec<Range<i64>> = batch.branches().into_iter().map(|b| b.tokens).collect();
        assert_eq!(tokens, [0..2, 2..3]);
    }

    #[test]
    fn what_cannot_be_packed_is_refused() {
        let refused = |groups: &[(&[u32], &[&[u32]])], expect: &str| {
            let error = pack(groups).unwrap_err().to_string();
            assert!(error.contains(expect), "expected `{expect}` in: {error}");
        };
        refused(&[], "at least one");
        refused(&[(&[1], &[&[2]]), (&[1, 2], &[])], "group 1 of the batch has no branches");
        refused(&[(&[1], &[&[2], &[]])], "branch 1 of group 0 has 0 tokens after a prefix of 1");
        refused(&[(&[1, 2, 3], &[&[4, 5], &[6, 7, 8]])], "branch 1 of group 0 has 3 tokens after a prefix of 3");
        refused(&[(&[], &[&[]])], "branch 0 of group 0 has 0 tokens after a prefix of 0");
    }
}
