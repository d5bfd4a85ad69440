//! Summaries of different users that are nearly the same.
//!
//! The similarity of two texts is the Jaccard index of their sets of shingles, runs of three words. All pairs above a threshold are
//! found exactly, by a join of sets with a prefix filter (Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", WWW
//! 2007): two similar sets share one of their rarest shingles, so only sets that do are compared.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chat::Draw;
use serde::{Deserialize, Serialize};

use super::words::words;
use super::{EXAMPLES, Finding, FindingKind};

/// The number of words of a shingle.
const SHINGLE: usize = 3;

/// A summary that a row trains.
pub(super) struct FinalSummary {
    uid: String,
    /// The beginning of the text.
    start: String,
    /// The shingles as sorted hashes of 64 bits, which bounds the memory.
    shingles: Vec<u64>,
}

impl FinalSummary {
    /// Returns a summary of a user.
    pub(super) fn new(uid: &str, text: &str) -> Self {
        let words = words(text);
        let hash = |run: &[String]| run.iter().fold(Draw::new(0), |draw, word| draw.text(word)).bits();
        let mut shingles: Vec<u64> =
            if words.len() < SHINGLE { vec![hash(&words)] } else { words.windows(SHINGLE).map(hash).collect() };
        shingles.sort_unstable();
        shingles.dedup();
        let start = text.chars().take(60).collect::<String>().replace('\n', " ");
        Self { uid: uid.into(), start, shingles }
    }
}

/// Summaries that are nearly the same as one of another user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Duplicates {
    /// The similarity from which summaries are nearly the same.
    pub similarity: f64,
    /// The number of summaries.
    pub summaries: usize,
    /// The number of summaries that are nearly the same as one of another user.
    pub near_duplicates: usize,
    /// The number of groups of at least two users, in which each summary is nearly the same as another one.
    pub groups: usize,
    /// The number of summaries of the largest group.
    pub largest: usize,
    /// The users and the beginning of the first groups.
    pub examples: Vec<String>,
}

impl Duplicates {
    /// Returns a finding if there are any.
    pub(super) fn finding(&self) -> Option<Finding> {
        let Self { near_duplicates, summaries, groups, largest, similarity, examples } = self;
        let message = format!(
            "{near_duplicates} of {summaries} summaries are nearly the same as one of another user (similarity of at least {similarity}): \
             {groups} groups, the largest of {largest}"
        );
        (*groups > 0).then(|| Finding { kind: FindingKind::NearDuplicates, message, examples: examples.clone() })
    }
}

/// Searches the summaries.
pub(super) fn find(summaries: &[FinalSummary], similarity: f64) -> Duplicates {
    let (sets, of_summary) = shingle_sets(summaries);
    let mut parents: Vec<usize> = (0..sets.len()).collect();
    let mut users: Vec<Option<Users<'_>>> = vec![None; sets.len()];
    for (summary, &set) in summaries.iter().zip(&of_summary) {
        users[set] = Users { first: &summary.uid, several: false }.with(users[set]);
    }
    // The users of each set and of those that are similar to it.
    let mut around = users.clone();
    for (a, b) in similar_pairs(&sets, similarity) {
        for (set, other) in [(a, b), (b, a)] {
            around[set] = around[set].and_then(|found| found.with(users[other]));
        }
        let (a, b) = (root(&mut parents, a), root(&mut parents, b));
        parents[a.max(b)] = a.min(b);
    }
    let mut found = Duplicates { similarity, summaries: summaries.len(), ..Duplicates::default() };
    let mut groups: BTreeMap<usize, Vec<&FinalSummary>> = BTreeMap::new();
    for (summary, set) in summaries.iter().zip(of_summary) {
        found.near_duplicates += usize::from(around[set].is_some_and(|users| users.several));
        groups.entry(root(&mut parents, set)).or_default().push(summary);
    }
    for members in groups.values() {
        let users: BTreeSet<&str> = members.iter().map(|summary| summary.uid.as_str()).collect();
        if users.len() < 2 {
            continue;
        }
        found.groups += 1;
        found.largest = found.largest.max(members.len());
        if found.examples.len() < EXAMPLES {
            let names: Vec<&str> = users.into_iter().take(3).collect();
            found.examples.push(format!("{}: \"{}…\"", names.join(", "), members[0].start));
        }
    }
    found
}

/// The users of some summaries: the first one, and whether there are others.
#[derive(Clone, Copy)]
struct Users<'a> {
    first: &'a str,
    several: bool,
}

impl Users<'_> {
    /// Returns these users and `others`.
    fn with(self, others: Option<Self>) -> Option<Self> {
        let more = others.is_some_and(|others| others.several || others.first != self.first);
        Some(Self { several: self.several || more, ..self })
    }
}

/// Returns the representative of an element, and shortens the way to it.
fn root(parents: &mut [usize], mut element: usize) -> usize {
    while parents[element] != element {
        parents[element] = parents[parents[element]];
        element = parents[element];
    }
    element
}

/// Returns the distinct sets of shingles, and the index of each summary's set. Shingles are numbered by rarity, and each set is
/// sorted, so its rarest shingle is first.
fn shingle_sets(summaries: &[FinalSummary]) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    let all = summaries.iter().flat_map(|summary| &summary.shingles);
    all.for_each(|shingle| *counts.entry(*shingle).or_default() += 1);
    let mut by_rarity: Vec<(usize, u64)> = counts.into_iter().map(|(shingle, count)| (count, shingle)).collect();
    by_rarity.sort_unstable();
    let numbers: HashMap<u64, u32> = by_rarity.into_iter().map(|(_, shingle)| shingle).zip(0..).collect();

    let (mut sets, mut known) = (Vec::new(), HashMap::new());
    let mut of_summary = Vec::with_capacity(summaries.len());
    for summary in summaries {
        let mut set: Vec<u32> = summary.shingles.iter().map(|shingle| numbers[shingle]).collect();
        set.sort_unstable();
        let index = *known.entry(set.clone()).or_insert(sets.len());
        if index == sets.len() {
            sets.push(set);
        }
        of_summary.push(index);
    }
    (sets, of_summary)
}

/// Returns all pairs of sets whose Jaccard index is at least `threshold`. Each set is sorted and has no element twice.
fn similar_pairs(sets: &[Vec<u32>], threshold: f64) -> Vec<(usize, usize)> {
    let mut by_size: Vec<usize> = (0..sets.len()).collect();
    by_size.sort_by_key(|&index| sets[index].len());
    let mut holders: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut compared_with = vec![usize::MAX; sets.len()];
    let mut pairs = Vec::new();
    for index in by_size {
        let set = &sets[index];
        // A similar set shares at least `threshold` of this one's elements, so it has one of the others and one more.
        let shared = (threshold * set.len() as f64 - 1e-9).ceil().max(1.0) as usize;
        for element in &set[..set.len() - shared + 1] {
            let earlier = holders.entry(*element).or_default();
            for &other in earlier.iter() {
                let large_enough = sets[other].len() as f64 >= threshold * set.len() as f64 - 1e-9;
                if compared_with[other] != index && large_enough && jaccard(set, &sets[other]) >= threshold {
                    pairs.push((other, index));
                }
                compared_with[other] = index;
            }
            earlier.push(index);
        }
    }
    pairs
}

/// Computes the Jaccard index of two sorted sets.
fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
        }
    }
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_join_finds_what_comparing_all_pairs_finds() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let base: Vec<Vec<u32>> = (0..12).map(|_| (0..20).map(|_| rng.random_range(0..60)).collect()).collect();
        // Copies of a few sets with some elements replaced, so that similarities of all sizes occur.
        let mut sets: Vec<Vec<u32>> = (0..150)
            .map(|i| {
                let copy = base[i % 12].iter().map(|&e| if rng.random_bool(0.1) { rng.random_range(0..60) } else { e });
                copy.take(1 + i % 20).collect::<BTreeSet<u32>>().into_iter().collect()
            })
            .collect();
        sets.sort();
        sets.dedup();
        for threshold in [0.3, 0.5, 0.8, 1.0] {
            let mut expected = Vec::new();
            for a in 0..sets.len() {
                expected
                    .extend((a + 1..sets.len()).filter(|&b| jaccard(&sets[a], &sets[b]) >= threshold).map(|b| (a, b)));
            }
            let mut found: Vec<(usize, usize)> =
                similar_pairs(&sets, threshold).into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{threshold}");
            assert!(threshold == 1.0 || !expected.is_empty());
        }
    }

    #[test]
    fn groups_hold_summaries_of_at_least_two_users() {
        let text = "Likes dry humor about trains and avoids long reports on sports or politics of any kind at all";
        let summary = FinalSummary::new;
        let near = text.replace("at all", "indeed");
        let own = [summary("a", text), summary("a", text), summary("b", "Likes warm stories."), summary("c", "ok")];
        assert_eq!(find(&own, 0.8).groups, 0);
        let all = [summary("a", text), summary("b", &near), summary("c", &text.to_uppercase()), summary("d", "ok")];
        let found = find(&all, 0.8);
        assert_eq!((found.groups, found.near_duplicates, found.largest, found.summaries), (1, 3, 3, 4));
        assert!(found.examples[0].starts_with("a, b, c: \"Likes dry humor"), "{:?}", found.examples);
        // The first two share 14 of 17 shingles.
        assert_eq!(find(&all, 0.99).near_duplicates, 2);
        // Of a chain, the summary that is near another one of the same user only is in the group, but counts as no near-duplicate.
        let further = near.replace("Likes", "Enjoys").replace("dry humor", "humor");
        let chain = [summary("a", &further), summary("a", &near), summary("b", text)];
        let found = find(&chain, 0.7);
        assert_eq!((found.groups, found.largest, found.near_duplicates), (1, 3, 2));
        assert_eq!(find(&[], 0.8), Duplicates { similarity: 0.8, ..Duplicates::default() });
    }
}
