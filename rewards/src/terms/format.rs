//! Term `format`.

use crate::{Judged, RewardTerm};

/// 1 for a response that passes the format gate, 0 otherwise.
pub struct Format;

impl RewardTerm for Format {
    fn name(&self) -> &'static str {
        "format"
    }

    fn score(&self, responses: &[Judged<'_>]) -> Vec<f64> {
        responses.iter().map(|r| if r.well_formed() { 1.0 } else { 0.0 }).collect()
    }
}
