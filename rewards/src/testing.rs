//! Test fixtures.

use crate::batch::RewardResponse;

/// Returns a response of `tokens` tokens, malformed without `p_chosen`; the maximum is 100 tokens.
pub fn response(p_chosen: Option<f64>, tokens: usize) -> RewardResponse<'static> {
    let text = if p_chosen.is_some() { "<think>t</think>s" } else { "s" };
    let well_formed = p_chosen.is_some();
    RewardResponse { text, tokens, token_limit: 100, uid: "u", well_formed, p_chosen, ..RewardResponse::default() }
}
