//! The built-in world: its users, their choices, and their true preferences.
//!
//! Every user is sampled from a separate random stream that depends only on the seed, the [`Population`] and the user's
//! number. Populations therefore never share users, and a user does not depend on how many others are sampled.

use chat::{History, Interaction};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::lexicon::{Dimension, Domain, Value};
use crate::render;
use crate::user::User;
pub use crate::world_params::WorldParams;

/// Disjoint groups of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Population {
    /// The users that the policy learns to read from, before any verified synthesis.
    Reading,
    /// The users whose histories the synthesis uses.
    Synthesis,
    /// The users whose histories reinforcement learning uses.
    Reinforcement,
    /// The users that only evaluations see.
    HeldOut,
    /// The users that the reward judge is trained on.
    TrainingJudge,
    /// The users that the independent judge is trained on.
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

/// Returns the random stream of user `number` of a population, for one purpose.
pub(crate) fn stream(seed: u64, population: Population, number: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((population as u64 + 1) << 48) | number as u64);
    rng
}

/// The numbers of interactions and targets to generate per user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifeSpan {
    /// The minimum number of interactions of the history.
    pub least_interactions: usize,
    /// The maximum number of interactions of the history.
    pub most_interactions: usize,
    /// The number of later choices in the history's own domain.
    pub targets: usize,
    /// The number of later choices in each of the other two domains.
    pub transfer_targets: usize,
}

impl Default for LifeSpan {
    /// Returns the values of the evaluations: six interactions, then four choices in each domain.
    fn default() -> Self {
        Self { least_interactions: 6, most_interactions: 6, targets: 4, transfer_targets: 4 }
    }
}

/// The record of one user, together with the truth that only the world knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The id of the user, unique in the world.
    pub uid: String,
    /// The domain of the history.
    pub domain: Domain,
    /// The past choices, oldest first.
    pub history: Vec<Interaction>,
    /// The later choices in the same domain.
    pub targets: Vec<Interaction>,
    /// The later choices in the other domains.
    pub transfer: Vec<Interaction>,
    /// The true preferences of the user at the end of the history, as the text of a summary.
    pub oracle: String,
}

impl Subject {
    /// Returns the history as a record of the pipeline.
    pub fn history(&self) -> History {
        History {
            uid: self.uid.clone(),
            interactions: self.history.clone(),
            transfer: self.transfer.clone(),
            ..History::default()
        }
    }
}

/// Samples users `0..count` of a population.
pub fn users(config: &WorldParams, population: Population, count: usize, span: &LifeSpan) -> Vec<Subject> {
    (0..count).map(|number| subject(config, population, number, span)).collect()
}

/// Returns, for every user, the oracle summary of another user: a baseline that shows how much the style of a summary
/// is worth. With a single user, it is the user's own.
pub fn random_summaries(subjects: &[Subject]) -> Vec<String> {
    let n = subjects.len();
    (0..n).map(|i| subjects[(i + n / 2) % n].oracle.clone()).collect()
}

fn subject(config: &WorldParams, population: Population, number: usize, span: &LifeSpan) -> Subject {
    let rng = &mut stream(config.seed, population, number);
    let user = User::draw(config, rng);
    let domain = *Domain::ALL.choose(rng).expect("there are three domains");
    let length = rng.random_range(span.least_interactions..=span.most_interactions.max(span.least_interactions));
    let moment = |i: usize| i as f64 / length.max(1) as f64;
    let history = (0..length).map(|i| interaction(config, &user, domain, moment(i), rng)).collect();
    let targets = (0..span.targets).map(|_| interaction(config, &user, domain, 1.0, rng)).collect();
    let mut transfer = Vec::new();
    for other in Domain::ALL.into_iter().filter(|&d| d != domain) {
        transfer.extend((0..span.transfer_targets).map(|_| interaction(config, &user, other, 1.0, rng)));
    }
    let uid = format!("{}-{number:06}", population.name());
    Subject { uid, domain, history, targets, transfer, oracle: user.truth().text(0) }
}

/// Samples one choice of a user: a pair that differs in utility, and the user's pick, which occasionally contradicts
/// their taste.
pub(crate) fn interaction(
    config: &WorldParams,
    user: &User,
    domain: Domain,
    moment: f64,
    rng: &mut ChaCha8Rng,
) -> Interaction {
    let cared: Vec<Value> = Value::all().filter(|v| user.weights(moment)[v.index()] != 0.0).collect();
    let mut pair = Pair::draw(config.least_values..=config.most_values, domain, &cared, config.focus, rng);
    let gap = |p: &Pair| user.utility(&p.first, moment) - user.utility(&p.second, moment);
    // Some users care for nothing that a domain shows: after 30 tries, any pair is accepted.
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

/// Two items as lists of values. They never share a value, which would carry no information.
#[derive(Debug)]
pub(crate) struct Pair {
    pub first: Vec<Value>,
    pub second: Vec<Value>,
}

impl Pair {
    /// Samples two items whose numbers of values are in `sizes`, limited by the domain's dimensions. A value is one of
    /// `favoured` with probability `focus` where its dimension has any.
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
    fn a_user_does_not_depend_on_the_others() {
        let config = WorldParams::default();
        let few = users(&config, Population::HeldOut, 3, &LifeSpan::default());
        let many = users(&config, Population::HeldOut, 9, &LifeSpan::default());
        assert_eq!(few[..], many[..3]);
        let others = users(&config, Population::Synthesis, 3, &LifeSpan::default());
        assert!(few.iter().zip(&others).all(|(a, b)| a.uid != b.uid && a.history != b.history));
        let reseeded = users(&WorldParams { seed: 1, ..config }, Population::HeldOut, 3, &LifeSpan::default());
        assert!(few.iter().zip(&reseeded).all(|(a, b)| a.history != b.history));
    }

    #[test]
    fn lives_have_the_asked_length_and_domains() {
        let span = LifeSpan { least_interactions: 9, most_interactions: 24, targets: 2, transfer_targets: 3 };
        let subjects = users(&WorldParams::default(), Population::Synthesis, 200, &span);
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
        for s in users(&WorldParams::default(), Population::HeldOut, 100, &LifeSpan::default()) {
            for i in s.history.iter().chain(&s.transfer) {
                let other = mentions(i.rejected.as_deref().unwrap());
                assert!(mentions(&i.chosen).iter().all(|v| !other.contains(v)), "{i:?}");
            }
        }
    }

    #[test]
    fn random_summaries_are_someone_elses() {
        for n in [2, 3, 4, 7, 50] {
            let subjects = users(&WorldParams::default(), Population::HeldOut, n, &LifeSpan::default());
            for (i, summary) in random_summaries(&subjects).iter().enumerate() {
                let owner = subjects.iter().position(|s| &s.oracle == summary);
                assert!(owner.is_some() && owner != Some(i), "{i} of {n}");
            }
        }
    }
}
