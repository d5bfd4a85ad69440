//! Curriculum: the difficulty of generated rows increases along a file whose order is the training order.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::world::{Population, WorldParams, stream};

/// The schedule of the difficulty level, from 0 (easy) to 1 (hard). The level of row `i` of `n` is sampled as
/// `min(1, i / (ramp · n)) · u^skew` with u uniform: the ceiling grows linearly, and easy rows never disappear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Curriculum {
    /// The fraction of the rows after which the ceiling is 1.
    pub ramp: f64,
    /// The exponent of the uniform variable below the ceiling; 0 keeps every row at the ceiling.
    pub skew: f64,
}

impl Default for Curriculum {
    fn default() -> Self {
        Self { ramp: 0.6, skew: 0.3 }
    }
}

impl Curriculum {
    /// Generates `count` rows of the users of `population`, easy ones first. `row` receives the level and the random
    /// stream of each row.
    ///
    /// # Errors
    /// Returns the first error of `row`.
    pub fn rows<T, E>(
        &self,
        world: &WorldParams,
        population: Population,
        count: usize,
        row: impl Fn(f64, &mut ChaCha8Rng) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        (0..count)
            .map(|i| {
                let mut rng = stream(world.seed, population, i);
                let level = self.level(i, count, &mut rng);
                row(level, &mut rng)
            })
            .collect()
    }

    /// Samples the level of row `index` of `count`.
    pub fn level(&self, index: usize, count: usize, rng: &mut ChaCha8Rng) -> f64 {
        let progress = index as f64 / (self.ramp * count as f64).max(1.0);
        progress.min(1.0) * rng.random::<f64>().powf(self.skew)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_ceiling_grows_and_then_stays() {
        let curriculum = Curriculum { ramp: 0.5, skew: 0.0 };
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut level = |i| curriculum.level(i, 100, &mut rng);
        assert_eq!([level(0), level(25), level(50), level(99)], [0.0, 0.5, 1.0, 1.0]);
        let easy = (0..1000).filter(|_| Curriculum::default().level(99, 100, &mut rng) < 0.5).count();
        // P(u^0.3 < 0.5) = 0.099; the bounds are six standard errors of 1000 samples.
        assert!((42..157).contains(&easy), "{easy}");
    }
}
