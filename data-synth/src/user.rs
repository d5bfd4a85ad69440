//! A simulated user: signed weights over values, a taste that may change, and noisy choices.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::lexicon::{Dimension, VALUES, Value};
use crate::summary::NamedPreferences;
use crate::world_params::WorldParams;

/// The signed weight of every value, by [`Value::index`]; 0 is indifference.
pub type TasteWeights = [f64; VALUES];

/// Latent taste. It is observable only through its effects on items and summaries.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    before: TasteWeights,
    after: TasteWeights,
    change: f64,
}

impl User {
    /// Samples a user.
    pub fn draw(config: &WorldParams, rng: &mut ChaCha8Rng) -> Self {
        let mut before = [0.0; VALUES];
        for dimension in Dimension::ALL {
            if !rng.random_bool(config.indifference) {
                fill(dimension, config, &mut before, rng);
            }
        }
        if before.iter().all(|&w| w == 0.0) {
            fill(Dimension::Tone, config, &mut before, rng);
        }
        let mut after = before;
        if rng.random_bool(config.drifting) {
            let cared: Vec<Dimension> =
                Dimension::ALL.into_iter().filter(|d| d.values().any(|v| before[v.index()] != 0.0)).collect();
            if let Some(&dimension) = cared.choose(rng) {
                fill(dimension, config, &mut after, rng);
            }
        }
        Self { before, after, change: rng.random_range(0.3..0.7) }
    }

    /// Returns the weights at a moment of the history, from 0 (its start) to 1 (its end and later).
    pub fn weights(&self, moment: f64) -> &TasteWeights {
        if moment < self.change { &self.before } else { &self.after }
    }

    /// Returns whether the taste changes during the history.
    pub fn drifts(&self) -> bool {
        self.before != self.after
    }

    /// Returns the utility for the user of an item that shows `values`.
    pub fn utility(&self, values: &[Value], moment: f64) -> f64 {
        values.iter().map(|v| self.weights(moment)[v.index()]).sum()
    }

    /// Returns the true preferences at the end of the history, as a summary.
    pub fn truth(&self) -> NamedPreferences {
        NamedPreferences::of_signs(Value::all().map(|v| (v, sign(self.after[v.index()]))))
    }
}

fn sign(weight: f64) -> i32 {
    i32::from(weight > 0.0) - i32::from(weight < 0.0)
}

/// Resamples the likes and dislikes of a dimension: up to two of each where there are many values, else one of each.
fn fill(dimension: Dimension, config: &WorldParams, weights: &mut TasteWeights, rng: &mut ChaCha8Rng) {
    let mut values: Vec<Value> = dimension.values().collect();
    values.shuffle(rng);
    let strength = rng.random_range(1.0 - config.strength_spread..=1.0 + config.strength_spread);
    let (likes, avoids) = match values.len() {
        8.. => (2, 2),
        5.. => (1 + usize::from(rng.random_bool(0.5)), 1),
        _ => (1, 1),
    };
    for (place, value) in values.into_iter().enumerate() {
        weights[value.index()] = match place {
            p if p < likes => strength,
            p if p < likes + avoids => -strength,
            _ => 0.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn taste_is_two_sided_and_partly_indifferent() {
        let config = WorldParams::default();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let users: Vec<User> = (0..500).map(|_| User::draw(&config, &mut rng)).collect();
        for user in &users {
            let truth = user.truth();
            assert!(!truth.likes.is_empty() && !truth.avoids.is_empty());
        }
        let drifting = users.iter().filter(|p| p.drifts()).count() as f64 / 500.0;
        // Binomial with 500 draws: four standard errors.
        assert!((drifting - config.drifting).abs() < 4.0 * (config.drifting * (1.0 - config.drifting) / 500.0).sqrt());
    }

    #[test]
    fn weights_change_at_the_moment_of_change() {
        let mut before = [0.0; VALUES];
        before[0] = 1.0;
        let mut after = [0.0; VALUES];
        after[0] = -1.0;
        let user = User { before, after, change: 0.5 };
        let item: Vec<Value> = Value::all().take(1).collect();
        assert_eq!(user.utility(&item, 0.4), 1.0);
        assert_eq!(user.utility(&item, 0.5), -1.0);
        assert_eq!(user.truth().avoids, item);
    }
}
