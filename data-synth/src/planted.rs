//! Choices that are known to be informative or not, to check what a scorer makes of them.
//!
//! An informative choice is between something that a user of the built-in world likes and something that they avoid, so the choices
//! before it tell its outcome. A noise choice is between two items that show nothing the user cares for, and its outcome is a coin
//! flip. Items show one value each.

use std::collections::HashMap;

use chat::records::{Checked, RowDefect};
use chat::{History, Interaction};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::lexicon::{Domain, Value};
use crate::render;
use crate::signal::ScoredHistory;
use crate::user::User;
use crate::world::{Pair, WorldParams};

/// The number of pairs that are drawn to find one of the wanted kind.
const TRIES: usize = 1000;

/// The kinds of a user's choices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlantedKinds {
    /// The id of the user.
    pub uid: String,
    /// Whether each choice is informative.
    pub informative: Vec<bool>,
}

impl Checked for PlantedKinds {
    fn defect(&self) -> Option<RowDefect> {
        None
    }
}

/// Returns `count` users with `choices` choices each, of which about the share `noise` is noise, and the kinds of their choices. A user
/// depends on the seed and their number only.
pub fn users(seed: u64, count: usize, choices: usize, noise: f64) -> Vec<(History, PlantedKinds)> {
    let world = WorldParams { drifting: 0.0, ..WorldParams::default() };
    (0..count).map(|number| user(&world, seed, number, choices, noise)).collect()
}

fn user(world: &WorldParams, seed: u64, number: usize, choices: usize, noise: f64) -> (History, PlantedKinds) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number as u64);
    let rng = &mut rng;
    let domain = *Domain::ALL.choose(rng).expect("there are three domains");
    let user = User::draw(world, rng);
    let shown = |value: &Value| domain.dimensions().contains(&value.dimension());
    let (cared, free): (Vec<Value>, Vec<Value>) =
        Value::all().filter(shown).partition(|value| user.weights(0.0)[value.index()] != 0.0);
    let utilities = |pair: &Pair| (user.utility(&pair.first, 0.0), user.utility(&pair.second, 0.0));
    let opposed = |pair: &Pair| {
        let (first, second) = utilities(pair);
        first * second < 0.0 && first > second
    };
    let indifferent = |pair: &Pair| utilities(pair) == (0.0, 0.0);
    let mut interactions = Vec::with_capacity(choices);
    let mut informative = Vec::with_capacity(choices);
    for _ in 0..choices {
        // Whoever cares for nothing that the domain shows has no informative choices.
        let by_taste = match cared.is_empty() || rng.random_bool(noise) {
            true => None,
            false => choice(domain, &cared, opposed, rng),
        };
        let is_informative = by_taste.is_some();
        if let Some(interaction) = by_taste.or_else(|| choice(domain, &free, indifferent, rng)) {
            informative.push(is_informative);
            interactions.push(interaction);
        }
    }
    let uid = format!("planted-{number:06}");
    (History { uid: uid.clone(), interactions, ..History::default() }, PlantedKinds { uid, informative })
}

/// Returns a choice of the first item of a pair that is `wanted`; `None` if none is found. Both items show one value, one of `favoured`
/// where their dimension has any.
fn choice(
    domain: Domain,
    favoured: &[Value],
    wanted: impl Fn(&Pair) -> bool,
    rng: &mut ChaCha8Rng,
) -> Option<Interaction> {
    let pair = (0..TRIES).map(|_| Pair::draw(1..=1, domain, favoured, 1.0, rng)).find(wanted)?;
    Some(Interaction {
        query: render::query(domain, rng),
        chosen: render::item(domain, &pair.first, 0.0, rng),
        rejected: Some(render::item(domain, &pair.second, 0.0, rng)),
        domain: Some(domain.name().into()),
        task: Some("choice".into()),
    })
}

/// Returns the area under the ROC curve of the signal: the probability that an informative choice has a higher signal than a noise
/// choice, where equal signals count half. The first half of each history, which has little before it to learn from, is left out. So
/// is a user of whom not every choice was kept. Returns `None` if one of the kinds does not occur among the scored choices.
pub fn auc(scored: &[ScoredHistory], kinds: &[PlantedKinds]) -> Option<f64> {
    let kinds: HashMap<&str, &[bool]> = kinds.iter().map(|user| (user.uid.as_str(), &user.informative[..])).collect();
    let (mut informative, mut noise) = (Vec::new(), Vec::new());
    for history in scored {
        let kinds = kinds.get(history.uid.as_str()).copied().unwrap_or_default();
        if kinds.len() != history.signals.len() {
            continue;
        }
        for (&kind, record) in kinds.iter().zip(&history.signals).skip(kinds.len() / 2) {
            if let Some(record) = record {
                if kind { informative.push(record.signal) } else { noise.push(record.signal) }
            }
        }
    }
    if informative.is_empty() || noise.is_empty() {
        return None;
    }
    noise.sort_by(f64::total_cmp);
    let wins: f64 = informative
        .iter()
        .map(|&signal| {
            let below = noise.partition_point(|&other| other < signal);
            let equal = noise[below..].partition_point(|&other| other <= signal);
            below as f64 + equal as f64 / 2.0
        })
        .sum();
    Some(wins / (informative.len() as f64 * noise.len() as f64))
}

#[cfg(test)]
mod tests {
    use chat::records::SignalRecord;
    use chat::{HistoryItems, Question};
    use tolerance::assert_within;

    use super::*;
    use crate::lexicon::mentions;
    use crate::signal::score_by_history;

    #[test]
    fn users_are_planted_as_asked() {
        let planted = users(1, 200, 12, 0.5);
        let kinds: Vec<bool> = planted.iter().flat_map(|(_, kinds)| kinds.informative.clone()).collect();
        let noise = kinds.iter().filter(|kind| !**kind).count() as f64 / kinds.len() as f64;
        // Some users care for nothing that their domain shows.
        assert!((0.44..0.62).contains(&noise), "{noise}");
        assert_eq!(users(1, 3, 12, 0.5)[..], planted[..3]);
        assert_ne!(users(2, 3, 12, 0.5)[..], planted[..3]);
        for (history, kinds) in &planted {
            assert_eq!((history.interactions.len(), kinds.informative.len()), (12, 12));
            let of_kind = |wanted: bool| {
                let pairs =
                    history.interactions.iter().zip(&kinds.informative).filter(move |(_, kind)| **kind == wanted);
                pairs.flat_map(|(i, _)| mentions(&i.chosen)).collect::<Vec<Value>>()
            };
            // What a user chooses by taste is never shown by a noise choice.
            assert!(of_kind(true).iter().all(|value| !of_kind(false).contains(value)), "{history:?}");
        }
    }

    #[test]
    fn the_area_is_that_worked_by_hand() {
        let record = |signal| Some(SignalRecord { signal, ..SignalRecord::default() });
        let scored = ScoredHistory {
            uid: "u".into(),
            signals: vec![
                record(9.0),
                record(9.0),
                record(9.0),
                record(0.5),
                record(0.5),
                record(0.1),
                record(0.7),
                None,
            ],
            ..ScoredHistory::default()
        };
        let kinds = |informative: [bool; 8]| [PlantedKinds { uid: "u".into(), informative: informative.into() }];
        // The second half: informative 0.5 and 0.7; noise 0.1. With 0.5 at index 3 it would count as well.
        let of = |kinds: &[PlantedKinds]| auc(std::slice::from_ref(&scored), kinds);
        assert_eq!(of(&kinds([false, false, false, false, true, false, true, true])), Some(1.0));
        assert_eq!(of(&kinds([true, true, true, true, false, true, true, true])), Some(0.5));
        assert_eq!(of(&kinds([true; 8])), None);
        let others = [PlantedKinds { uid: "v".into(), informative: vec![true, false] }];
        assert_eq!(of(&others), None);
        // A history that lost its oldest choice, so that kinds and signals are out of step.
        let longer = [false, false, false, false, true, false, true, true, true].to_vec();
        assert_eq!(of(&[PlantedKinds { uid: "u".into(), informative: longer }]), None);
    }

    #[test]
    fn a_judge_that_counts_tells_the_kinds_apart() {
        let planted = users(3, 150, 16, 0.5);
        let (histories, kinds): (Vec<History>, Vec<PlantedKinds>) = planted.into_iter().unzip();
        // The history as a list of the chosen items, and of the rejected ones.
        let render = |items: HistoryItems<'_>| {
            let list = |of: fn(&Interaction) -> &str| items.interactions().iter().map(of).collect::<Vec<_>>().join(" ");
            Ok(format!("{}|{}", list(|i| &i.chosen), list(|i| i.rejected.as_deref().unwrap_or_default())))
        };
        let p = |question: &Question| {
            let (chosen, rejected) = question.preference.split_once('|').unwrap_or_default();
            let (chosen, rejected) = (mentions(chosen), mentions(rejected));
            let count = |item: &str| -> f64 {
                let of = |list: &[Value], value| list.iter().filter(|v| **v == value).count() as f64;
                mentions(item).into_iter().map(|v| of(&chosen, v) - of(&rejected, v)).sum()
            };
            let margin = count(&question.chosen) - count(&question.rejected);
            1.0 / (1.0 + (-margin).exp())
        };
        let verify = |questions: &[Question]| Ok(questions.iter().map(p).collect::<Vec<f64>>());
        let scored = score_by_history(&histories, &render, &|_| true, "", &verify).unwrap();
        let found = auc(&scored, &kinds).unwrap();
        assert!(found > 0.8, "{found}");
        let blind = score_by_history(&histories, &render, &|_| true, "", &|questions: &[Question]| {
            Ok(vec![0.5; questions.len()])
        });
        assert_within!(auc(&blind.unwrap(), &kinds).unwrap() - 0.5, 1e-12);
    }
}
