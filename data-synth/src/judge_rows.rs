//! Rows that teach a small model to judge: the input is a summary and two items, the output is evidence followed by the
//! answer.
//!
//! A model this small does not learn the bare answer. It learns to list the evidence first, and then to derive the
//! answer from it: every value of an item with what the summary says about it,
//! `A science likes short unknown B long avoids answer A`.

use chat::prompts::{NO_PAST, PromptError, PromptSet};
use chat::{Message, SftRow};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::curriculum::Curriculum;
use crate::lexicon::{Domain, Value, mentions};
use crate::render;
use crate::summary::{NamedPreferences, WORDING_COUNT};
use crate::user::User;
use crate::world::{Pair, Population, WorldParams};

/// The share of rows whose summary is empty.
const UNKNOWN: f64 = 0.03;
/// The share of rows that keep a pair the summary does not decide; the other rows resample the pair.
const UNDECIDED: f64 = 0.08;
/// The share of rows whose summary has entries that are not true of the user.
const FLAWED: f64 = 0.3;
/// The probability that an item's value is one that the summary names.
const FOCUS: f64 = 0.55;
/// The maximum number of values of an item. It exceeds what the world's items show, since every value is a training
/// signal.
const MOST_VALUES: f64 = 4.0;
/// The maximum number of entries of a summary.
const MOST_ENTRIES: f64 = 14.0;

/// Generates `count` rows, easy ones first, from the users of `population`.
///
/// # Errors
/// Returns [`PromptError`] if the set has no usable `judge` template.
pub fn judge_rows(
    world: &WorldParams,
    population: Population,
    prompts: &PromptSet,
    count: usize,
    curriculum: &Curriculum,
) -> Result<Vec<SftRow>, PromptError> {
    curriculum.rows(world, population, count, |level, rng| row(world, prompts, level, rng))
}

fn row(world: &WorldParams, prompts: &PromptSet, level: f64, rng: &mut ChaCha8Rng) -> Result<SftRow, PromptError> {
    let user = User::draw(world, rng);
    let (summary, text) = summary(&user, level, rng);
    let domain = *Domain::ALL.choose(rng).expect("there are three domains");
    let (pair, margin) = pair(&summary, domain, level, rng);
    let a_wins = match margin {
        0 => choice(world, &user, &pair, rng),
        m => m > 0,
    };
    let query = render::query(domain, rng);
    let [a, b] = [&pair.first, &pair.second].map(|values| render::item(domain, values, world.distraction * level, rng));
    let answer = evidence(&summary, [&a, &b], a_wins);
    Ok(SftRow { prompt: prompts.judge(query.as_deref(), &text, &a, &b)?, completion: vec![Message::assistant(answer)] })
}

/// Returns the judge's turn: each value of A in canonical order with what the summary says about it, the same for B,
/// and the answer. A model this small learns this format many times faster than a list of the matches only, since each
/// value is a single lookup. It is also faster than the item's own order, which requires finding each position among
/// words that show no value.
fn evidence(summary: &NamedPreferences, [a, b]: [&str; 2], a_wins: bool) -> String {
    let mut words = Vec::new();
    for (name, item) in [("A", a), ("B", b)] {
        words.push(name);
        let mut shown = mentions(item);
        shown.sort();
        for value in shown {
            let opinion = match summary.sign(value) {
                0 => "unknown",
                sign if sign > 0 => "likes",
                _ => "avoids",
            };
            words.extend([value.canonical(), opinion]);
        }
    }
    words.extend(["answer", if a_wins { "A" } else { "B" }]);
    words.join(" ")
}

/// Returns whether the user would choose the first item.
fn choice(world: &WorldParams, user: &User, pair: &Pair, rng: &mut ChaCha8Rng) -> bool {
    let gap = user.utility(&pair.first, 1.0) - user.utility(&pair.second, 1.0);
    if gap == 0.0 { rng.random_bool(0.5) } else { (gap > 0.0) != rng.random_bool(world.choice_noise) }
}

/// Samples a complete, partial, flawed or empty summary, in any wording.
fn summary(user: &User, level: f64, rng: &mut ChaCha8Rng) -> (NamedPreferences, String) {
    if rng.random_bool(UNKNOWN) {
        let text = if rng.random_bool(0.5) { NO_PAST.into() } else { NamedPreferences::default().text(0) };
        return (NamedPreferences::default(), text);
    }
    let truth = user.truth();
    let mut entries: Vec<(Value, i32)> = truth.entries().collect();
    entries.shuffle(rng);
    let most = 1 + (level * (MOST_ENTRIES - 1.0)).round() as usize;
    entries.truncate(rng.random_range(1..=most));
    if rng.random_bool(FLAWED) {
        for _ in 0..rng.random_range(1..=most.div_ceil(4)) {
            let value = *Value::all().collect::<Vec<_>>().choose(rng).expect("there are values");
            entries.retain(|&(v, _)| v != value);
            entries.push((value, if rng.random_bool(0.5) { 1 } else { -1 }));
        }
    }
    let summary = NamedPreferences::of_signs(entries);
    let text = summary.text(rng.random_range(0..WORDING_COUNT));
    (summary, text)
}

/// Samples two items that the summary usually decides between, and returns its margin for the first.
fn pair(summary: &NamedPreferences, domain: Domain, level: f64, rng: &mut ChaCha8Rng) -> (Pair, i32) {
    let named: Vec<Value> = summary.entries().map(|(v, _)| v).collect();
    let sizes = 1..=1 + (level * (MOST_VALUES - 1.0)).round() as usize;
    let keep_undecided = summary.is_empty() || rng.random_bool(UNDECIDED);
    let score = |values: &[Value]| values.iter().map(|&v| summary.sign(v)).sum::<i32>();
    let mut pair = Pair::draw(sizes.clone(), domain, &named, FOCUS, rng);
    // A summary may name nothing that this domain shows; such a row stays undecided.
    for _ in 0..30 {
        if keep_undecided || score(&pair.first) != score(&pair.second) {
            break;
        }
        pair = Pair::draw(sizes.clone(), domain, &named, FOCUS, rng);
    }
    let margin = score(&pair.first) - score(&pair.second);
    (pair, margin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn rows(count: usize) -> Vec<SftRow> {
        let prompts = testing::compact();
        judge_rows(&WorldParams::default(), Population::TrainingJudge, &prompts, count, &Curriculum::default()).unwrap()
    }

    /// Parses the items from the prompt.
    fn items(row: &SftRow) -> (String, String) {
        let lines: Vec<&str> = row.prompt[0].content.lines().collect();
        let item = |name: &str| {
            let line = lines.iter().find(|l| l.starts_with(name)).unwrap();
            line.strip_prefix(name).unwrap().to_owned()
        };
        (item("A "), item("B "))
    }

    #[test]
    fn the_answer_follows_from_prompt_and_evidence() {
        let mut undecided = 0;
        for row in rows(2000) {
            let summary = NamedPreferences::read(row.prompt[0].content.lines().next().unwrap());
            let (a, b) = items(&row);
            let margin = crate::ideal::margin(&summary, &a, &b);
            let text = &row.completion[0].content;
            match margin.signum() {
                1 => assert!(text.ends_with("answer A"), "{row:?}"),
                -1 => assert!(text.ends_with("answer B"), "{row:?}"),
                _ => undecided += 1,
            }
            let (for_a, for_b) = text.strip_prefix('A').unwrap().split_once(" B").unwrap();
            let count = |s: &str| s.matches("likes").count() as i32 - s.matches("avoids").count() as i32;
            assert_eq!(count(for_a) - count(for_b), margin, "{row:?}");
        }
        assert!((100..500).contains(&undecided), "{undecided}");
    }

    #[test]
    fn rows_get_harder_and_show_every_wording() {
        let rows = rows(3000);
        let entries = |rows: &[SftRow]| {
            let first = |r: &SftRow| NamedPreferences::read(r.prompt[0].content.lines().next().unwrap());
            let named: usize = rows.iter().map(|r| first(r).entries().count()).sum();
            named as f64 / rows.len() as f64
        };
        assert!(entries(&rows[..300]) < 2.5, "{}", entries(&rows[..300]));
        assert!(entries(&rows[2000..]) > 4.0, "{}", entries(&rows[2000..]));
        for cue in ["They like", "Prefers", "Wants", "They avoid", "Dislikes", "Rejects", "Not Provided.", "No clear"] {
            assert!(rows.iter().any(|r| r.prompt[0].content.starts_with(cue)), "{cue}");
        }
    }
}
