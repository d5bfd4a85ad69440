//! Test fixtures.

use configs::rl::reward::FormatGate;

use crate::batch::RewardResponse;

/// Returns a response of `tokens` tokens, malformed without `p_chosen`; the maximum is 100 tokens.
pub fn response(p_chosen: Option<f64>, tokens: usize) -> RewardResponse<'static> {
    RewardResponse {
        text: if p_chosen.is_some() { "<think>t</think>s" } else { "s" },
        tokens,
        token_limit: 100,
        stage: 0,
        group: 0,
        uid: "u",
        domain: None,
        task: None,
        history: &[],
        past_summary: None,
        targets: &[],
        verdicts: &[],
        transfer: &[],
        past_targets: &[],
        reference: None,
        gate: FormatGate::Strict,
        well_formed: p_chosen.is_some(),
        p_chosen,
    }
}
