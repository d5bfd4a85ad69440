//! Test fixtures.

use configs::rl::reward::FormatGate;

use crate::batch::RewardResponse;

/// Returns a response of `tokens` tokens; the maximum is 100 tokens.
pub fn response(p_chosen: Option<f64>, tokens: usize) -> RewardResponse<'static> {
    RewardResponse {
        text: "<think>t</think>s",
        tokens,
        token_limit: 100,
        stage: 0,
        group: 0,
        uid: "u",
        history: &[],
        past_summary: None,
        targets: &[],
        gate: FormatGate::Strict,
        p_chosen,
    }
}
