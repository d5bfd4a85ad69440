//! The constants of the built-in world.

use serde::{Deserialize, Serialize};

/// The constants of the world. The defaults are tuned so that a complete reading of six choices is clearly better than
/// an incomplete one and clearly worse than the truth (`cargo run --example tune_world`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldParams {
    /// The seed of everything in the world.
    pub seed: u64,
    /// The probability that a user is indifferent to a dimension.
    pub indifference: f64,
    /// The half-width of the spread of a dimension's strength around 1.
    pub strength_spread: f64,
    /// The probability that a user's taste in one dimension changes midway.
    pub drifting: f64,
    /// The probability that a choice contradicts the user's taste.
    pub choice_noise: f64,
    /// The minimum difference in utility between the two items of a pair; closer pairs are not offered.
    pub least_gap: f64,
    /// The probability that an item's value is one the user cares about, where the dimension has any.
    pub focus: f64,
    /// The minimum number of values that an item shows.
    pub least_values: usize,
    /// The maximum number of values that an item shows.
    pub most_values: usize,
    /// The probability of an irrelevant detail in an item.
    pub distraction: f64,
}

impl Default for WorldParams {
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
