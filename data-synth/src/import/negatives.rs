//! Rejected items for choices of which the source has only the chosen item.

use std::collections::HashMap;

use chat::Draw;
use configs::synth::NegativePolicy;

use crate::import::Options;
use crate::import::items::{ItemId, ItemTable};
use crate::import::similarity::Similarity;

/// The number of draws before the allowed items are listed instead.
const ATTEMPTS: u64 = 32;

/// Draws items that a user has not chosen, of the domain of the chosen item, and with another text.
pub(super) struct Negatives<'a> {
    items: &'a ItemTable,
    policy: NegativePolicy,
    hard_candidates: usize,
    /// By domain; the last one is of items without a domain.
    pools: Vec<Pool>,
    similarity: Option<Similarity>,
}

/// The items of a domain that have a text, in the order of their ids in the source: a draw does not depend on the order of the files.
struct Pool {
    items: Vec<ItemId>,
    /// The items by popularity class; empty unless the policy is `popularity`.
    by_class: Vec<ItemId>,
    /// The start of each popularity class in `by_class`, and the end.
    starts: Vec<usize>,
}

/// Returns the class of items that were chosen about as often: never, once, 2 to 3 times, 4 to 7 times, …
fn popularity_class(choices: u32) -> usize {
    choices.checked_ilog2().map_or(0, |power| power as usize + 1)
}

impl Pool {
    fn new(mut items: Vec<ItemId>, table: &ItemTable, policy: NegativePolicy) -> Self {
        items.sort_unstable_by(|&a, &b| table.id(a).cmp(table.id(b)));
        // Only draws by popularity may depend on what other users chose.
        if policy != NegativePolicy::Popularity {
            return Self { items, by_class: Vec::new(), starts: Vec::new() };
        }
        let class = |item: ItemId| popularity_class(table.choices(item));
        let mut by_class = items.clone();
        by_class.sort_by_key(|&item| class(item));
        let classes = by_class.last().map_or(0, |&last| class(last) + 1);
        let starts = (0..=classes).map(|c| by_class.partition_point(|&item| class(item) < c)).collect();
        Self { items, by_class, starts }
    }

    fn class(&self, class: usize) -> &[ItemId] {
        match (self.starts.get(class), self.starts.get(class + 1)) {
            (Some(&start), Some(&end)) => &self.by_class[start..end],
            _ => &[],
        }
    }

    /// Draws from the class of an item that was chosen `choices` times, or from the nearest class with an allowed item.
    fn as_popular(&self, choices: u32, draw: Draw, excluded: &dyn Fn(ItemId) -> bool) -> Option<ItemId> {
        let (own, classes) = (popularity_class(choices), self.starts.len());
        (0..classes.max(own + 1)).find_map(|distance| {
            let below = own.checked_sub(distance).map(|class| self.class(class));
            let above = if distance == 0 { None } else { Some(self.class(own + distance)) };
            below.and_then(|class| uniform(class, draw, excluded)).or_else(|| uniform(above?, draw, excluded))
        })
    }
}

/// Draws uniformly from the items that are not excluded; `None` if there are none.
fn uniform(items: &[ItemId], draw: Draw, excluded: &dyn Fn(ItemId) -> bool) -> Option<ItemId> {
    let drawn = |attempt| items.get(draw.with(attempt).below(items.len())).copied();
    // Most items are allowed unless there are few.
    if let Some(item) = (0..ATTEMPTS).filter_map(drawn).find(|&item| !excluded(item)) {
        return Some(item);
    }
    let allowed: Vec<ItemId> = items.iter().copied().filter(|&item| !excluded(item)).collect();
    allowed.get(draw.with(ATTEMPTS).below(allowed.len())).copied()
}

/// Draws up to `count` different items that are not excluded.
fn sample(items: &[ItemId], count: usize, draw: Draw, excluded: &dyn Fn(ItemId) -> bool) -> Vec<ItemId> {
    // The first steps of a Fisher-Yates shuffle; the map holds the places that it changed.
    let mut moved: HashMap<usize, usize> = HashMap::new();
    let mut found = Vec::with_capacity(count);
    for start in 0..items.len() {
        if found.len() == count {
            break;
        }
        let place = start + draw.with(start as u64).below(items.len() - start);
        let index = moved.get(&place).copied().unwrap_or(place);
        let here = moved.get(&start).copied().unwrap_or(start);
        moved.insert(place, here);
        found.extend(items.get(index).copied().filter(|&item| !excluded(item)));
    }
    found
}

impl<'a> Negatives<'a> {
    pub(super) fn new(items: &'a ItemTable, options: &Options) -> Self {
        let domains = items.domains.len();
        let mut pools: Vec<Vec<ItemId>> = vec![Vec::new(); domains + 1];
        for item in (0..items.len() as u32).map(ItemId).filter(|&item| !items.text(item).is_empty()) {
            pools[usize::from(items.label(item)).min(domains)].push(item);
        }
        Self {
            items,
            policy: options.negatives,
            hard_candidates: options.hard_candidates,
            pools: pools.into_iter().map(|pool| Pool::new(pool, items, options.negatives)).collect(),
            similarity: (options.negatives == NegativePolicy::Hard).then(|| Similarity::new(items)),
        }
    }

    /// Draws the rejected item of a choice; `None` if every item of the domain is excluded. An item with the text of the chosen one,
    /// such as another edition, is excluded too.
    pub(super) fn draw(&self, chosen: ItemId, draw: Draw, excluded: &dyn Fn(ItemId) -> bool) -> Option<ItemId> {
        let text = self.items.text(chosen);
        let excluded = |item| excluded(item) || self.items.text(item) == text;
        let excluded: &dyn Fn(ItemId) -> bool = &excluded;
        let pool = self.pools.get(usize::from(self.items.label(chosen)).min(self.pools.len() - 1))?;
        match (self.policy, &self.similarity) {
            (NegativePolicy::Popularity, _) => pool.as_popular(self.items.choices(chosen), draw, excluded),
            (NegativePolicy::Hard, Some(similarity)) => self.most_similar(similarity, pool, chosen, draw, excluded),
            _ => uniform(&pool.items, draw, excluded),
        }
    }

    fn most_similar(
        &self,
        similarity: &Similarity,
        pool: &Pool,
        chosen: ItemId,
        draw: Draw,
        excluded: &dyn Fn(ItemId) -> bool,
    ) -> Option<ItemId> {
        let candidates: Vec<ItemId> = if pool.items.len() <= self.hard_candidates {
            pool.items.iter().copied().filter(|&item| !excluded(item)).collect()
        } else {
            sample(&pool.items, self.hard_candidates, draw.text("candidate"), excluded)
        };
        let query = similarity.query(self.items.text(chosen));
        let scored = candidates.into_iter().map(|item| (item, similarity.score(item, &query)));
        // Of equally similar items the first one by id, or by draw.
        scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(item, _)| item)
    }
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::format;

    fn options(policy: NegativePolicy, hard_candidates: usize) -> Options {
        let config = ImportConfig { negatives: Some(policy), hard_candidates, ..ImportConfig::default() };
        Options::new(&config, format("movielens").unwrap(), 0)
    }

    /// Returns a table of items that were chosen this many times.
    fn table(choices: &[u32]) -> ItemTable {
        let mut items = ItemTable::new(false);
        for (number, &count) in choices.iter().enumerate() {
            let item = items.insert(&number.to_string(), &format!("text {number}"), None);
            (0..count).for_each(|_| items.count_choice(item));
        }
        items
    }

    /// Returns how often each of the items is drawn for `users` choices of item 0.
    fn counts(items: &ItemTable, policy: NegativePolicy, users: u64, excluded: &[u32]) -> Vec<u64> {
        let negatives = Negatives::new(items, &options(policy, 100));
        let mut counts = vec![0; items.len()];
        for user in 0..users {
            let draw = Draw::new(5).text("negative").text(&format!("u{user}")).with(0);
            let item = negatives.draw(ItemId(0), draw, &|item| item.0 == 0 || excluded.contains(&item.0)).unwrap();
            counts[item.index()] += 1;
        }
        counts
    }

    fn chi_square(counts: &[u64], expected: f64) -> f64 {
        counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn unseen_items_are_drawn_uniformly() {
        let counts = counts(&table(&[9, 0, 50, 1, 0, 3, 7, 7]), NegativePolicy::GlobalUnseen, 12_000, &[3]);
        assert_eq!((counts[0], counts[3]), (0, 0));
        let allowed: Vec<u64> = counts.into_iter().filter(|&count| count > 0).collect();
        // 6 items; chi-square with 5 degrees of freedom exceeds 35.9 once in a million.
        assert_eq!(allowed.len(), 6);
        assert!(chi_square(&allowed, 2000.0) < 35.9, "{allowed:?}");
    }

    #[test]
    fn the_last_allowed_item_is_found_among_many() {
        let items = table(&[0; 400]);
        let excluded: Vec<u32> = (0..400).filter(|&item| item != 277).collect();
        let counts = counts(&items, NegativePolicy::GlobalUnseen, 10, &excluded);
        assert_eq!(counts[277], 10);
        let negatives = Negatives::new(&items, &options(NegativePolicy::GlobalUnseen, 100));
        assert_eq!(negatives.draw(ItemId(0), Draw::new(0), &|_| true), None);
    }

    #[test]
    fn popular_items_get_popular_negatives() {
        // Item 0 was chosen 5 times; 4 to 7 times: 2, 4, 6 and 7.
        let counts = counts(&table(&[5, 1, 4, 8, 7, 0, 6, 5, 3]), NegativePolicy::Popularity, 12_000, &[6]);
        let drawn: Vec<usize> = (0..counts.len()).filter(|&item| counts[item] > 0).collect();
        assert_eq!(drawn, [2, 4, 7]);
        // Chi-square with 2 degrees of freedom exceeds 27.7 once in a million.
        let drawn: Vec<u64> = drawn.into_iter().map(|item| counts[item]).collect();
        assert!(chi_square(&drawn, 4000.0) < 27.7, "{drawn:?}");
    }

    #[test]
    fn without_items_as_popular_the_nearest_class_is_taken() {
        assert_eq!(counts(&table(&[5, 1, 3, 9]), NegativePolicy::Popularity, 50, &[]), [0, 0, 50, 0]);
        assert_eq!(counts(&table(&[5, 1, 3, 9]), NegativePolicy::Popularity, 50, &[2]), [0, 0, 0, 50]);
        assert_eq!(counts(&table(&[5, 1, 3, 9]), NegativePolicy::Popularity, 50, &[2, 3]), [0, 50, 0, 0]);
        // Item 0 is more popular than any other.
        assert_eq!(counts(&table(&[5000, 1, 0]), NegativePolicy::Popularity, 50, &[]), [0, 50, 0]);
    }

    #[test]
    fn hard_negatives_share_rare_words() {
        let mut items = ItemTable::new(false);
        for (number, text) in [
            "Title: The glacier expedition",
            "Title: The tax return",
            "Title: The expedition to a glacier lake",
            "Title: The lake house",
            "Title: The glacier",
        ]
        .iter()
        .enumerate()
        {
            items.insert(&number.to_string(), text, None);
        }
        let draw = |hard_candidates, excluded: &[u32], user: u64| {
            let negatives = Negatives::new(&items, &options(NegativePolicy::Hard, hard_candidates));
            negatives.draw(ItemId(0), Draw::new(user), &|item| item.0 == 0 || excluded.contains(&item.0))
        };
        assert_eq!(draw(100, &[], 1), Some(ItemId(2)));
        assert_eq!(draw(100, &[2], 1), Some(ItemId(4)));
        // Of a single candidate the most similar one is any item: 60 draws miss one of four items once in 8 million.
        let single: Vec<Option<ItemId>> = (0..60).map(|user| draw(1, &[], user)).collect();
        assert!((1..5).all(|item| single.contains(&Some(ItemId(item)))));
    }

    #[test]
    fn a_draw_depends_on_neither_the_order_of_the_items_nor_their_popularity() {
        let drawn = |order: &[usize], chosen_often: Option<usize>, policy| -> Vec<String> {
            let mut items = ItemTable::new(false);
            for number in order {
                items.insert(&format!("i{number}"), &format!("the text {number}"), None);
            }
            if let Some(number) = chosen_often {
                let item = items.get(&format!("i{number}")).unwrap();
                (0..8).for_each(|_| items.count_choice(item));
            }
            let chosen = items.get("i0").unwrap();
            let negatives = Negatives::new(&items, &options(policy, 3));
            let draw = |user| negatives.draw(chosen, Draw::new(user), &|item| item == chosen).unwrap();
            (0..40).map(|user| items.id(draw(user)).to_owned()).collect()
        };
        for policy in [NegativePolicy::GlobalUnseen, NegativePolicy::InSession, NegativePolicy::Hard] {
            let expected = drawn(&[0, 1, 2, 3, 4, 5], None, policy);
            assert_eq!(drawn(&[0, 1, 2, 3, 4, 5], Some(1), policy), expected, "{policy:?}");
            assert_eq!(drawn(&[5, 3, 1, 4, 0, 2], Some(4), policy), expected, "{policy:?}");
        }
        let popularity = NegativePolicy::Popularity;
        assert_eq!(drawn(&[0, 1, 2, 3], Some(1), popularity), drawn(&[3, 1, 0, 2], Some(1), popularity));
    }

    #[test]
    fn an_item_with_the_text_of_the_chosen_one_is_no_negative() {
        let mut items = ItemTable::new(false);
        for (id, text) in [("a", "The sea"), ("b", "The sea"), ("c", "A lake"), ("d", "The sea")] {
            items.insert(id, text, None);
        }
        for policy in [NegativePolicy::GlobalUnseen, NegativePolicy::Popularity, NegativePolicy::Hard] {
            for hard_candidates in [1, 100] {
                let negatives = Negatives::new(&items, &options(policy, hard_candidates));
                for user in 0..20 {
                    let drawn = negatives.draw(ItemId(0), Draw::new(user), &|item| item.0 == 0);
                    assert_eq!(drawn, Some(ItemId(2)), "{policy:?}");
                }
                assert_eq!(negatives.draw(ItemId(0), Draw::new(0), &|item| item.0 == 2), None);
            }
        }
    }

    #[test]
    fn candidates_are_different_items() {
        let items: Vec<ItemId> = (0..50).map(ItemId).collect();
        let mut counts = [0_u64; 50];
        for user in 0..4000 {
            let draw = Draw::new(user);
            let found = sample(&items, 10, draw, &|item| item.0 < 10);
            let different: std::collections::BTreeSet<ItemId> = found.iter().copied().collect();
            assert_eq!((found.len(), different.len()), (10, 10));
            found.iter().for_each(|item| counts[item.index()] += 1);
        }
        assert!(counts[..10].iter().all(|&count| count == 0));
        // 40 items, each among the ten of 40 in a quarter of the draws. The statistic of draws without repetition has 3/4 of the
        // scale of a chi-square with 39 degrees of freedom, which exceeds 95 once in a million.
        assert!(chi_square(&counts[10..], 1000.0) < 95.0, "{counts:?}");
        assert_eq!(sample(&items, 60, Draw::new(1), &|item| item.0 % 2 == 0).len(), 25);
    }

    #[test]
    fn negatives_are_of_the_domain_of_the_choice() {
        let mut items = ItemTable::new(false);
        for (number, domain) in
            [Some("books"), Some("films"), Some("books"), None, Some("films"), None].iter().enumerate()
        {
            items.insert(&number.to_string(), &format!("text {number}"), *domain);
        }
        let empty = items.insert("empty", "", Some("books"));
        let negatives = Negatives::new(&items, &options(NegativePolicy::GlobalUnseen, 100));
        for (chosen, expected) in [(0, 2), (1, 4), (3, 5)] {
            for user in 0..20 {
                let drawn = negatives.draw(ItemId(chosen), Draw::new(user), &|item| item.0 == chosen).unwrap();
                assert_eq!(drawn, ItemId(expected));
                assert_ne!(drawn, empty);
            }
        }
    }
}
