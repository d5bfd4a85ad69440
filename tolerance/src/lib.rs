//! Numeric tolerances of tests, and the margin of each.
//!
//! [`assert_within!`] fails a test whose observed deviation exceeds the allowed one. If the environment variable
//! [`XPLORE_MARGINS`](FOLDER) names a folder, each test process also records in it the maximum share of the allowed deviation that
//! each site used. `scripts/test --margins` runs the tests in this mode and prints one table. A share above one third fails,
//! because another CPU sums in a different order and needs the rest.
//!
//! ```no_run
//! use tolerance::assert_within;
//!
//! let (loss, expected) = (2.000_001, 2.0);
//! assert_within!(loss / expected - 1.0, 1e-5);
//! assert_within!(loss - expected, 1e-5 * expected, "packed {loss}, unpacked {expected}");
//! ```
//!
//! A site is a file and line. In a `#[track_caller]` helper, it is the line that calls the helper, so a helper that takes a
//! tolerance as its argument gets one row per caller.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::OpenOptions;
use std::io::{Result, Write};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Name of the environment variable that contains the folder of the records.
pub const FOLDER: &str = "XPLORE_MARGINS";

/// Asserts that the magnitude of a deviation is at most the allowed value.
///
/// The macro takes `assert_within!(observed, allowed)`, optionally followed by a message as in [`assert!`]. Both values are `f32`,
/// `f64`, or any other type that converts to `f64` without loss. For a relative tolerance, pass a ratio or scale the allowed value.
///
/// # Panics
///
/// If the observed value is NaN or its magnitude exceeds the allowed value.
#[macro_export]
macro_rules! assert_within {
    ($observed:expr, $allowed:expr $(,)?) => {
        $crate::assert_within!($observed, $allowed, "{}", ::core::stringify!($observed))
    };
    ($observed:expr, $allowed:expr, $($what:tt)+) => {
        $crate::check(::core::module_path!(), f64::from($observed), f64::from($allowed), || ::std::format!($($what)+))
    };
}

/// Returns the maximum of the deviations; NaN if any is NaN, which `f64::max` would ignore. Returns 0 if there are none.
pub fn largest(deviations: impl IntoIterator<Item = f64>) -> f64 {
    deviations.into_iter().fold(0.0, |largest, d| if largest.is_nan() || largest >= d { largest } else { d })
}

/// Checks and records one deviation; called by [`assert_within!`].
#[doc(hidden)]
#[track_caller]
pub fn check(module: &'static str, observed: f64, allowed: f64, what: impl FnOnce() -> String) {
    // The unit tests of this crate use up or exceed their tolerances on purpose, so they must not appear in the table.
    static RECORDER: LazyLock<Recorder> = LazyLock::new(|| {
        let folder = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty() && !cfg!(test));
        Recorder::new(folder.map(Into::into))
    });
    let (site, observed) = (Location::caller(), observed.abs());
    RECORDER.record(module, site, observed, allowed);
    // Also false if either value is NaN.
    let within = observed <= allowed;
    assert!(within, "{}: observed {observed:.3e}, allowed {allowed:.3e} ({}:{})", what(), site.file(), site.line());
}

/// A recorder that appends to this process's file in a folder.
struct Recorder {
    folder: Option<PathBuf>,
    /// The maximum share of the allowed deviation recorded so far, by file and line. Tests check some tolerances a million times,
    /// and only a new maximum is worth a write.
    largest: Mutex<HashMap<(&'static str, u32), f64>>,
}

impl Recorder {
    fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, largest: Mutex::default() }
    }

    /// Appends module, site, observed value, and allowed value, separated by tabs, if their ratio is a new maximum of the site.
    fn record(&self, module: &str, site: &'static Location<'static>, observed: f64, allowed: f64) {
        let Some(folder) = &self.folder else { return };
        let share = share(observed, allowed);
        let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
        match largest.entry((site.file(), site.line())) {
            Entry::Occupied(seen) if share <= *seen.get() => return,
            Entry::Occupied(mut seen) => *seen.get_mut() = share,
            Entry::Vacant(new) => *new.insert(share) = share,
        }
        // The lock is still held, so the lines of two threads do not interleave.
        let line = format!("{module}\t{}:{}\t{observed:e}\t{allowed:e}\n", site.file(), site.line());
        let file = folder.join(process::id().to_string());
        if let Err(error) = append(&file, &line) {
            panic!("{}: cannot record a tolerance: {error}; {FOLDER} must name a writable folder", file.display());
        }
    }
}

/// Returns the share of the allowed deviation that is used; infinite if NaN is involved.
fn share(observed: f64, allowed: f64) -> f64 {
    if observed == 0.0 && allowed >= 0.0 {
        return 0.0;
    }
    let share = observed / allowed;
    if share.is_nan() { f64::INFINITY } else { share }
}

fn append(file: &Path, line: &str) -> Result<()> {
    OpenOptions::new().create(true).append(true).open(file)?.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::catch_unwind;
    use std::thread;

    use super::*;

    /// Returns the panic message of `assertion`.
    fn failure(assertion: fn()) -> String {
        *catch_unwind(assertion).unwrap_err().downcast().unwrap()
    }

    #[test]
    fn the_largest_deviation_is_nan_where_one_is() {
        assert_eq!(largest([0.1, 0.3, 0.2]), 0.3);
        assert_eq!(largest([]), 0.0);
        for deviations in [[f64::NAN, 0.3, 0.2], [0.1, f64::NAN, 0.2], [0.1, 0.3, f64::NAN]] {
            assert!(largest(deviations).is_nan(), "{deviations:?}");
        }
    }

    #[test]
    fn passes_up_to_the_bound() {
        assert_within!(0.0, 0.0);
        assert_within!(0.5, 0.5);
        assert_within!(-0.5, 0.5);
        assert_within!(0.25f32, 0.5);
        assert_within!(0.5, 0.5f32, "no argument");
        let what = "captured";
        assert_within!(1, 2.0, "{what} and {}", "given");
    }

    #[test]
    fn fails_beyond_the_bound_and_where_something_is_nan() {
        let said = failure(|| assert_within!(0.25 - 1.0, 0.5, "loss of {}", "rl"));
        let line = line!() - 1;
        assert_eq!(said, format!("loss of rl: observed 7.500e-1, allowed 5.000e-1 (tolerance/src/lib.rs:{line})"));
        assert!(failure(|| assert_within!(2.0 * 3.0, 1.0)).starts_with("2.0 * 3.0: observed 6.000e0, allowed 1.000e0"));
        assert!(failure(|| assert_within!(f64::NAN, 1.0)).contains("observed NaN"));
        assert!(failure(|| assert_within!(f32::INFINITY, 1.0)).contains("observed inf"));
        assert!(failure(|| assert_within!(0.0, f64::NAN)).contains("allowed NaN"));
        assert!(failure(|| assert_within!(1e-300, 0.0)).contains("allowed 0.000e0"));
    }

    #[test]
    fn the_message_is_made_only_on_failure() {
        let asked = Cell::new(false);
        assert_within!(0.0, 1.0, "{}", asked.replace(true));
        assert!(!asked.get());
    }

    /// Returns the lines of a recorder's file, without the module.
    fn lines(folder: &Path) -> Vec<[String; 3]> {
        let text = std::fs::read_to_string(folder.join(process::id().to_string())).unwrap();
        let fields = |line: &str| <[String; 4]>::try_from(line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        text.lines()
            .map(|line| fields(line).unwrap())
            .map(|[_, site, observed, allowed]| [site, observed, allowed])
            .collect()
    }

    #[test]
    fn only_a_new_maximum_of_a_site_is_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(Some(folder.path().to_owned()));
        let site = here();
        let other = here();
        for (observed, allowed) in
            [(0.0, 0.0), (1.0, 10.0), (0.5, 10.0), (3.0, 30.0), (1.0, 4.0), (f64::NAN, 1.0), (9.0, 1.0)]
        {
            recorder.record("it", site, observed, allowed);
        }
        recorder.record("it", other, 1e-7, 1e-5);
        let at = |site: &Location<'_>| format!("{}:{}", site.file(), site.line());
        let recorded = [("0e0", "0e0"), ("1e0", "1e1"), ("1e0", "4e0"), ("NaN", "1e0")];
        let mut expected: Vec<[String; 3]> = recorded.map(|(o, a)| [at(site), o.into(), a.into()]).into();
        expected.push([at(other), "1e-7".into(), "1e-5".into()]);
        assert_eq!(lines(folder.path()), expected);
    }

    /// Returns the location of the caller.
    #[track_caller]
    fn here() -> &'static Location<'static> {
        Location::caller()
    }

    #[test]
    fn threads_record_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(Some(folder.path().to_owned()));
        let site = here();
        thread::scope(|scope| {
            for t in 1..=8 {
                let recorder = &recorder;
                scope.spawn(move || (1..=100).for_each(|i| recorder.record("it", site, f64::from(i * t), 1e3)));
            }
        });
        let shares: Vec<f64> = lines(folder.path()).iter().map(|[_, observed, _]| observed.parse().unwrap()).collect();
        assert!(shares.is_sorted_by(|a, b| a < b));
        assert_eq!(shares.last(), Some(&800.0));
    }
}
