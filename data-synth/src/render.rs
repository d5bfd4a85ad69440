//! Items as text: short phrases that show some values, in varied wording, sometimes with an irrelevant detail.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::lexicon::{Dimension, Domain, Value};

const COLOURS: [&str; 6] = ["red", "blue", "green", "grey", "black", "white"];
const WEEKDAYS: [&str; 5] = ["monday", "tuesday", "wednesday", "thursday", "friday"];
const SOURCES: [&str; 5] = ["herald", "gazette", "tribune", "beacon", "courier"];
const CITIES: [&str; 5] = ["paris", "lagos", "lima", "oslo", "kyoto"];
const ERRANDS: [&str; 8] =
    ["taxes", "gardening", "homework", "packing", "repairs", "lunch", "homesickness", "insurance"];

/// Returns the kinds of items in each domain.
pub(crate) fn heads(domain: Domain) -> &'static [&'static str] {
    match domain {
        Domain::News => &["article", "report", "piece"],
        Domain::Product => &["kit", "book", "course"],
        Domain::Reply => &["reply", "answer", "note"],
    }
}

/// Returns the phrases that show a value after the head noun: the words before and after the value's own word.
fn behind(dimension: Dimension) -> &'static [(&'static str, &'static str)] {
    match dimension {
        Dimension::Topic => &[("about", ""), ("on", ""), ("covering", "")],
        Dimension::Tone => &[("in", "tone"), ("sounding", "")],
        Dimension::Length => &[("of", "length"), ("rather", "")],
        Dimension::Depth => &[("at", "level"), ("for", "readers")],
        Dimension::Format => &[("with", ""), ("as", "")],
        Dimension::Price => &[("at", "price"), ("for", "money")],
    }
}

/// Samples a detail that no user of this world cares about.
fn distractor(rng: &mut ChaCha8Rng) -> (bool, String) {
    match rng.random_range(0..4) {
        0 => (true, pick(&COLOURS, rng).into()),
        1 => (false, format!("from {}", pick(&WEEKDAYS, rng))),
        2 => (false, format!("by {}", pick(&SOURCES, rng))),
        _ => (false, format!("near {}", pick(&CITIES, rng))),
    }
}

fn pick<'a>(from: &[&'a str], rng: &mut ChaCha8Rng) -> &'a str {
    from.choose(rng).expect("the word lists of this module are not empty")
}

/// Returns a phrase for an item that shows `values`. `distraction` is the probability of an irrelevant detail.
pub fn item(domain: Domain, values: &[Value], distraction: f64, rng: &mut ChaCha8Rng) -> String {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for &value in values {
        let words: Vec<&str> = value.surface(domain).collect();
        let word = pick(&words, rng);
        if rng.random_bool(0.65) {
            before.push(word.to_owned());
        } else {
            let (left, right) = behind(value.dimension()).choose(rng).expect("every dimension has a phrase");
            after.push(format!("{left} {word} {right}").trim_end().to_owned());
        }
    }
    if rng.random_bool(distraction) {
        let (in_front, text) = distractor(rng);
        if in_front { before.push(text) } else { after.push(text) }
    }
    before.shuffle(rng);
    after.shuffle(rng);
    let mut words = before;
    words.push(pick(heads(domain), rng).to_owned());
    words.extend(after);
    let first = words[0].chars().next().unwrap_or('x');
    let article = if rng.random_bool(0.5) {
        "the"
    } else if "aeiou".contains(first) {
        "an"
    } else {
        "a"
    };
    format!("{article} {}", words.join(" "))
}

/// Returns the query: assistants are asked something; the other domains recommend without a query.
pub fn query(domain: Domain, rng: &mut ChaCha8Rng) -> Option<String> {
    (domain == Domain::Reply).then(|| format!("help with {}", pick(&ERRANDS, rng)))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::lexicon::mentions;

    #[test]
    fn an_item_says_its_values_and_no_other() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for round in 0..300 {
            let domain = Domain::ALL[round % 3];
            let mut shown: Vec<Value> = domain
                .dimensions()
                .iter()
                .map(|d| {
                    let values: Vec<Value> = d.values().collect();
                    *values.choose(&mut rng).unwrap()
                })
                .collect();
            let text = item(domain, &shown, 0.5, &mut rng);
            let mut read = mentions(&text);
            read.sort();
            shown.sort();
            assert_eq!(read, shown, "{text}");
        }
    }

    #[test]
    fn idle_words_and_queries_mean_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        for _ in 0..100 {
            assert!(mentions(&item(Domain::News, &[], 1.0, &mut rng)).is_empty());
            assert!(mentions(&query(Domain::Reply, &mut rng).unwrap()).is_empty());
        }
    }
}
