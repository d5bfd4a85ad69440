//! Constraints on config values beyond their types.

use std::fmt::Display;

use crate::error::{ConfigError, Origin};

/// A config key with an invalid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// The full path of the key.
    pub key: String,
    /// The value found and the value expected, as a sentence that follows the key.
    pub problem: String,
}

impl Defect {
    pub(crate) fn new(key: &str, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    pub(crate) fn into_error(self, origin: Origin, example: Option<String>) -> ConfigError {
        ConfigError::Value { origin, key: self.key, problem: self.problem, example }
    }
}

impl From<Defect> for ConfigError {
    fn from(defect: Defect) -> Self {
        defect.into_error(Origin::Code, None)
    }
}

pub(crate) type CheckResult = Result<(), Defect>;

/// Prefixes the keys of a nested table with the key of that table.
pub(crate) trait Under {
    fn under(self, table: impl Display) -> Self;
}

impl Under for CheckResult {
    fn under(self, table: impl Display) -> Self {
        self.map_err(|defect| Defect { key: format!("{table}.{}", defect.key), ..defect })
    }
}

/// Returns `Ok` if `ok`; otherwise a defect that reads "is `value`; expected `expected`".
pub(crate) fn ensure(ok: bool, key: &str, value: impl Display, expected: &str) -> CheckResult {
    if ok { Ok(()) } else { Err(Defect::new(key, format!("is {value}; expected {expected}"))) }
}

/// Checks that a required key is set.
pub(crate) fn given(given: bool, key: &str, what: &str) -> CheckResult {
    if given { Ok(()) } else { Err(Defect::new(key, format!("is not set; expected {what}"))) }
}

pub(crate) fn at_least(key: &str, value: usize, least: usize) -> CheckResult {
    ensure(value >= least, key, value, &format!("at least {least}"))
}

pub(crate) fn positive(key: &str, value: f64) -> CheckResult {
    ensure(value > 0.0 && value.is_finite(), key, value, "a finite number above 0")
}

pub(crate) fn not_negative(key: &str, value: f64) -> CheckResult {
    ensure(value >= 0.0 && value.is_finite(), key, value, "a finite number, 0 or more")
}

/// Checks that `value` is from 0 to 1, both inclusive.
pub(crate) fn fraction(key: &str, value: f64) -> CheckResult {
    ensure((0.0..=1.0).contains(&value), key, value, "a number from 0 to 1")
}

/// Checks that `value` is from 0, inclusive, to 1, exclusive.
pub(crate) fn below_one(key: &str, value: f64) -> CheckResult {
    ensure((0.0..1.0).contains(&value), key, value, "a number from 0 to below 1")
}
