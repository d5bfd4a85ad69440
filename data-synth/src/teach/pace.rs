//! The time that remains.

/// The time of the batches that asked a model. Batches that a journal answered are as good as free and do not count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    users: usize,
    seconds: f64,
}

impl Pace {
    /// Adds a batch.
    pub fn add(&mut self, users: usize, seconds: f64) {
        self.users += users;
        self.seconds += seconds;
    }

    /// Returns the time for `users` more; `None` before the first batch.
    pub fn left(&self, users: usize) -> Option<f64> {
        (self.users > 0).then(|| self.seconds / self.users as f64 * users as f64)
    }
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_users_so_far() {
        let mut pace = Pace::default();
        assert_eq!(pace.left(10), None);
        pace.add(4, 2.0);
        pace.add(6, 8.0);
        assert_within!(pace.left(5).unwrap() - 5.0, 1e-12);
    }
}
