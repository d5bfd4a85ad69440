//! Term `brevity`.

use crate::{Judged, RewardTerm};

/// 1 − tokens / limit: 1 for an empty response, 0 for one that fills its limit. The reasoning counts too.
pub struct Brevity;

impl RewardTerm for Brevity {
    fn name(&self) -> &'static str {
        "brevity"
    }

    fn score(&self, responses: &[Judged<'_>]) -> Vec<f64> {
        let used = |r: &Judged<'_>| r.tokens as f64 / r.token_limit.max(1) as f64;
        responses.iter().map(|r| (1.0 - used(r)).max(0.0)).collect()
    }
}
