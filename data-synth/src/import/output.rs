//! The files of an import: users of the training set and of the test set.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chat::{Draw, History};

use crate::import::Options;
use crate::import::card::Tally;
use crate::import::error::ImportError;

/// Writes each user to one of the two files.
pub(super) struct Output<'a> {
    folder: PathBuf,
    train: &'a mut dyn Write,
    test: &'a mut dyn Write,
    pub(super) tally: Tally,
}

impl<'a> Output<'a> {
    pub(super) fn new(folder: &Path, train: &'a mut dyn Write, test: &'a mut dyn Write) -> Self {
        Self { folder: folder.into(), train, test, tally: Tally::default() }
    }

    /// Writes a user.
    pub(super) fn write(&mut self, history: &History, options: &Options) -> Result<(), ImportError> {
        let test = is_test(&history.uid, options);
        self.tally.add(history, test);
        let out: &mut dyn Write = if test { &mut *self.test } else { &mut *self.train };
        serde_json::to_writer(&mut *out, history)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|source| ImportError::unwritten(&self.folder, source))
    }
}

/// Returns whether a user belongs to the test set.
fn is_test(uid: &str, options: &Options) -> bool {
    let draw = Draw::new(options.seed).text("split").text(uid);
    // 53 bits, which an f64 holds exactly.
    ((draw.bits() >> 11) as f64) < options.test_share * (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::format;

    #[test]
    fn the_share_of_the_test_set_is_that_of_the_options() {
        for (test_share, seed) in [(0.0, 1), (0.2, 1), (0.2, 2), (0.9, 1)] {
            let config = ImportConfig { test_share, ..ImportConfig::default() };
            let options = Options::new(&config, format("mind").unwrap(), seed);
            let test = (0..10_000).filter(|user| is_test(&format!("u{user}"), &options)).count() as f64;
            // Binomial: five standard errors, which are exceeded once in 1.7 million.
            let error = (10_000.0 * test_share * (1.0 - test_share)).sqrt();
            assert!((test - 10_000.0 * test_share).abs() <= 5.0 * error, "{test} of 10,000 for {test_share}");
        }
    }
}
