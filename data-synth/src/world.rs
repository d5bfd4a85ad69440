//! The built-in world: who lives in it, what they chose, and what would have been the right thing to say about them.
//!
//! Every person is drawn from an own random stream that depends on the seed, the [`Population`] and the person's
//! number only, so populations never share people and a person does not depend on how many others were drawn.

use chat::{History, Interaction};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::lexicon::{Dimension, Domain, Value};
use crate::person::Person;
use crate::render;

/// The world's constants. The defaults are tuned so that a complete reading of six choices is worth clearly more than
/// an incomplete one and clearly less than the truth (`cargo run --example tune_world`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Seed of everything in the world.
    pub seed: u64,
    /// Probability that a person is indifferent to a dimension.
    pub indifference: f64,
    /// Half-width of the spread of a dimension's strength around 1.
    pub strength_spread: f64,
    /// Probability that a person's taste in one dimension changes midway.
    pub drifting: f64,
    /// Probability that a choice contradicts the person's taste.
    pub choice_noise: f64,
    /// Pairs whose utilities differ by less are not offered.
    pub least_gap: f64,
    /// Probability that an item's value is one the person cares about, where the dimension has any.
    pub focus: f64,
    /// Fewest values an item shows.
    pub least_values: usize,
    /// Most values an item shows.
    pub most_values: usize,
    /// Probability of an idle detail in an item.
    pub distraction: f64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            indifference: 0.3,
            strength_spread: 0.3,
            drifting: 0.15,
            choice_noise: 0.02,
            least_gap: 1.2,
            focus: 0.85,
            least_values: 2,
            most_values: 2,
            distraction: 0.25,
        }
    }
}

/// People that must not be mixed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Population {
    /// Those the policy learns to read from, before any verified synthesis.
    Reading,
    /// Those whose histories the synthesis works on.
    Synthesis,
    /// Those whose histories reinforcement learning works on.
    Reinforcement,
    /// Those that only evaluations see.
    HeldOut,
    /// Those the judge that gives reward learns from.
    TrainingJudge,
    /// Those the independent judge learns from.
    SecondJudge,
}

impl Population {
    fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Synthesis => "synthesis",
            Self::Reinforcement => "reinforcement",
            Self::HeldOut => "held-out",
            Self::TrainingJudge => "training-judge",
            Self::SecondJudge => "second-judge",
        }
    }
}

/// The random stream of person `number` of a population, for one purpose.
pub(crate) fn stream(seed: u64, population: Population, number: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((population as u64 + 1) << 48) | number as u64);
    rng
}

/// How much of a life is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifeSpan {
    /// Fewest interactions of the history.
    pub least_interactions: usize,
    /// Most interactions of the history.
    pub most_interactions: usize,
    /// Later choices in the history's own domain.
    pub targets: usize,
    /// Later choices in each of the other two domains.
    pub transfer_targets: usize,
}

impl Default for LifeSpan {
    /// What the evaluations use: six interactions, then four choices in each domain.
    fn default() -> Self {
        Self { least_interactions: 6, most_interactions: 6, targets: 4, transfer_targets: 4 }
    }
}

/// One person's record, and what only the world knows about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The person's name, unique in the world.
    pub uid: String,
    /// Where the history happened.
    pub domain: Domain,
    /// Past choices, oldest first.
    pub history: Vec<Interaction>,
    /// Later choices in the same domain.
    pub targets: Vec<Interaction>,
    /// Later choices in the other domains.
    pub transfer: Vec<Interaction>,
    /// The truth about the person at the end of the history, in a summary's words.
    pub oracle: String,
}

impl Subject {
    /// The history as the pipeline's record.
    pub fn history(&self) -> History {
        History { uid: self.uid.clone(), interactions: self.history.clone() }
    }
}

/// Draws people `0..count` of a population.
pub fn people(config: &WorldConfig, population: Population, count: usize, span: &LifeSpan) -> Vec<Subject> {
    (0..count).map(|number| subject(config, population, number, span)).collect()
}

/// For every person, the oracle summary of another one: the bound that shows what the style of a summary is worth.
/// With a single person there is no other, and it is their own.
pub fn random_summaries(subjects: &[Subject]) -> Vec<String> {
    let n = subjects.len();
    (0..n).map(|i| subjects[(i + n / 2) % n].oracle.clone()).collect()
}

fn subject(config: &WorldConfig, population: Population, number: usize, span: &LifeSpan) -> Subject {
    let rng = &mut stream(config.seed, population, number);
    let person = Person::draw(config, rng);
    let domain = *Domain::ALL.choose(rng).expect("there are three domains");
    let length = rng.random_range(span.least_interactions..=span.most_interactions.max(span.least_interactions));
    let moment = |i: usize| i as f64 / length.max(1) as f64;
    let history = (0..length).map(|i| interaction(config, &person, domain, moment(i), rng)).collect();
    let targets = (0..span.targets).map(|_| interaction(config, &person, domain, 1.0, rng)).collect();
    let mut transfer = Vec::new();
    for other in Domain::ALL.into_iter().filter(|&d| d != domain) {
        transfer.extend((0..span.transfer_targets).map(|_| interaction(config, &person, other, 1.0, rng)));
    }
    let uid = format!("{}-{number:06}", population.name());
    Subject { uid, domain, history, targets, transfer, oracle: person.truth().text(0) }
}

/// One choice of a person: a pair worth choosing between, and their pick, which now and then contradicts their taste.
pub(crate) fn interaction(
    config: &WorldConfig,
    person: &Person,
    domain: Domain,
    moment: f64,
    rng: &mut ChaCha8Rng,
) -> Interaction {
    let cared: Vec<Value> = Value::all().filter(|v| person.weights(moment)[v.index()] != 0.0).collect();
    let mut pair = Pair::draw(config.least_values..=config.most_values, domain, &cared, config.focus, rng);
    let gap = |p: &Pair| person.utility(&p.first, moment) - person.utility(&p.second, moment);
    // Some people care for nothing a domain shows: after a while any pair will do.
    for _ in 0..30 {
        if gap(&pair).abs() >= config.least_gap {
            break;
        }
        pair = Pair::draw(config.least_values..=config.most_values, domain, &cared, config.focus, rng);
    }
    let first_wins = (gap(&pair) > 0.0) != rng.random_bool(config.choice_noise);
    let (chosen, rejected) = if first_wins { (&pair.first, &pair.second) } else { (&pair.second, &pair.first) };
    Interaction {
        query: render::query(domain, rng),
        chosen: render::item(domain, chosen, config.distraction, rng),
        rejected: Some(render::item(domain, rejected, config.distraction, rng)),
        domain: Some(domain.name().into()),
        task: Some("choice".into()),
    }
}

/// Two items as lists of values; they never show the same value, which would tell nothing.
#[derive(Debug)]
pub(crate) struct Pair {
    pub first: Vec<Value>,
    pub second: Vec<Value>,
}

impl Pair {
    /// Draws two items that show as many values as `sizes` allows; a value is one of `favoured` with probability
    /// `focus` where its dimension has any.
    pub(crate) fn draw(
        sizes: std::ops::RangeInclusive<usize>,
        domain: Domain,
        favoured: &[Value],
        focus: f64,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut draw = |taken: &[Value]| -> Vec<Value> {
            let size = rng.random_range(sizes.clone()).min(domain.dimensions().len());
            let shown: Vec<Dimension> = domain.dimensions().choose_multiple(rng, size).copied().collect();
            shown.into_iter().filter_map(|dimension| one(dimension, favoured, taken, focus, rng)).collect()
        };
        let first = draw(&[]);
        let second = draw(&first);
        Self { first, second }
    }
}

fn one(dimension: Dimension, favoured: &[Value], taken: &[Value], focus: f64, rng: &mut ChaCha8Rng) -> Option<Value> {
    let free: Vec<Value> = dimension.values().filter(|v| !taken.contains(v)).collect();
    let liked: Vec<Value> = free.iter().copied().filter(|v| favoured.contains(v)).collect();
    let from = if !liked.is_empty() && rng.random_bool(focus) { liked } else { free };
    from.choose(rng).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexicon::mentions;

    #[test]
    fn a_person_does_not_depend_on_the_others() {
        let config = WorldConfig::default();
        let few = people(&config, Population::HeldOut, 3, &LifeSpan::default());
        let many = people(&config, Population::HeldOut, 9, &LifeSpan::default());
        assert_eq!(few[..], many[..3]);
        let others = people(&config, Population::Synthesis, 3, &LifeSpan::default());
        assert!(few.iter().zip(&others).all(|(a, b)| a.uid != b.uid && a.history != b.history));
        let reseeded = people(&WorldConfig { seed: 1, ..config }, Population::HeldOut, 3, &LifeSpan::default());
        assert!(few.iter().zip(&reseeded).all(|(a, b)| a.history != b.history));
    }

    #[test]
    fn lives_have_the_asked_length_and_domains() {
        let span = LifeSpan { least_interactions: 9, most_interactions: 24, targets: 2, transfer_targets: 3 };
        let subjects = people(&WorldConfig::default(), Population::Synthesis, 200, &span);
        assert!(subjects.iter().all(|s| (9..=24).contains(&s.history.len())));
        assert!(subjects.iter().any(|s| s.history.len() == 9) && subjects.iter().any(|s| s.history.len() == 24));
        for s in &subjects {
            assert_eq!((s.targets.len(), s.transfer.len()), (2, 6));
            let own = Some(s.domain.name());
            assert!(s.history.iter().chain(&s.targets).all(|i| i.domain.as_deref() == own));
            assert!(s.transfer.iter().all(|i| i.domain.as_deref() != own));
        }
    }

    #[test]
    fn the_two_items_of_a_pair_share_no_value() {
        for s in people(&WorldConfig::default(), Population::HeldOut, 100, &LifeSpan::default()) {
            for i in s.history.iter().chain(&s.transfer) {
                let other = mentions(i.rejected.as_deref().unwrap());
                assert!(mentions(&i.chosen).iter().all(|v| !other.contains(v)), "{i:?}");
            }
        }
    }

    #[test]
    fn random_summaries_are_someone_elses() {
        for n in [2, 3, 4, 7, 50] {
            let subjects = people(&WorldConfig::default(), Population::HeldOut, n, &LifeSpan::default());
            for (i, summary) in random_summaries(&subjects).iter().enumerate() {
                let owner = subjects.iter().position(|s| &s.oracle == summary);
                assert!(owner.is_some() && owner != Some(i), "{i} of {n}");
            }
        }
    }
}
