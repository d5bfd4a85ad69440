//! Rows that teach a small policy to read before it trains on verified synthesis, which is what pre-training gives a
//! large model. The input is a few interactions, short histories first; the output is a correct tally and a summary of
//! any completeness.

use chat::prompts::{PromptError, PromptSet};
use chat::{Interaction, Message, SftRow, reasoning};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::curriculum::Curriculum;
use crate::lexicon::Domain;
use crate::summary::{NamedPreferences, WORDING_COUNT};
use crate::tally::{Evidence, Tally};
use crate::user::User;
use crate::world::{Population, WorldParams, interaction};

/// The maximum number of interactions of a row.
const MOST_INTERACTIONS: f64 = 6.0;
/// The share of summaries that name everything known.
const COMPLETE: f64 = 0.4;
/// The minimum share of what is known that the other summaries name.
const LEAST_COMPLETENESS: f64 = 0.1;
/// The share of rows with a past summary.
const WITH_PAST: f64 = 0.45;

/// Generates `count` rows, short ones first, from the users of `population`. Summaries, past and present, name anything
/// from few to all of the preferences that the choices support. A model that can read can write either; the later
/// phases teach how much to write.
///
/// # Errors
/// Returns [`PromptError`] if the set has no usable `summarize` template.
pub fn reading_rows(
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
    let domain = *Domain::ALL.choose(rng).expect("there are three domains");
    let most = 1 + (level * (MOST_INTERACTIONS - 1.0)).round() as usize;
    let past = rng.random_bool(WITH_PAST).then(|| {
        let earlier: Vec<Interaction> =
            (0..rng.random_range(1..=most)).map(|_| interaction(world, &user, domain, 0.0, rng)).collect();
        some_of(&tally(NamedPreferences::default(), &earlier).supported(1), rng)
    });
    let past_text = past.as_ref().map(|p| p.text(rng.random_range(0..WORDING_COUNT)));
    let choices: Vec<Interaction> =
        (0..rng.random_range(1..=most)).map(|_| interaction(world, &user, domain, 1.0, rng)).collect();
    let tally = tally(past.unwrap_or_default(), &choices);
    let summary = some_of(&tally.supported(1), rng).text(rng.random_range(0..WORDING_COUNT));
    Ok(SftRow {
        prompt: prompts.summarize(past_text.as_deref(), &choices)?,
        completion: vec![Message::assistant(reasoning::join(&tally.text(), &summary))],
    })
}

/// Keeps all entries, or each with one probability, which is sampled uniformly from few to all.
fn some_of(known: &NamedPreferences, rng: &mut ChaCha8Rng) -> NamedPreferences {
    let completeness = if rng.random_bool(COMPLETE) { 1.0 } else { rng.random_range(LEAST_COMPLETENESS..=1.0) };
    NamedPreferences::of_signs(known.entries().filter(|_| rng.random_bool(completeness)).collect::<Vec<_>>())
}

fn tally(past: NamedPreferences, interactions: &[Interaction]) -> Tally {
    let choices =
        interactions.iter().map(|i| Evidence::of_items(&i.chosen, i.rejected.as_deref().unwrap_or_default())).collect();
    Tally { past, choices }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::read_choices;
    use crate::testing;

    #[test]
    fn the_reasoning_is_the_tally_of_the_prompt() {
        let world = WorldParams::default();
        let rows = reading_rows(&world, Population::Reading, &testing::compact(), 400, &Curriculum::default()).unwrap();
        let (mut lengths, mut complete) = (Vec::new(), 0);
        for row in &rows {
            let (tally, _) = read_choices(row.prompt[0].content.trim()).unwrap();
            let parts = reasoning::split(&row.completion[0].content).unwrap();
            assert_eq!(parts.reasoning, tally.text());
            let (supported, named) = (tally.supported(1), NamedPreferences::read(parts.summary));
            let wrong = named.entries().filter(|&(v, sign)| supported.sign(v) != sign).count();
            assert_eq!(wrong, 0, "{row:?}");
            complete += usize::from(named.entries().count() == supported.entries().count());
            lengths.push(tally.choices.len());
        }
        let mean = |part: &[usize]| part.iter().sum::<usize>() as f64 / part.len() as f64;
        assert!(
            mean(&lengths[..20]) < 2.0 && mean(&lengths[300..]) > 2.5 && lengths[300..].contains(&6),
            "{lengths:?}"
        );
        // 40 % name everything, plus the few others that do so by chance; five standard errors of 400 samples are 49.
        assert!((160 - 49..=160 + 110).contains(&complete), "{complete}");
    }
}
