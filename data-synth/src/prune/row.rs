//! RL rows of selected targets.

use chat::{Interaction, RlRow};

use super::rule::Pair;
use crate::signal::ScoredHistory;

/// Returns the row of a user. A history of interactions ends with the later target. Of a history of messages, the first stage reads the
/// first half; the targets that no stage has are kept as further ones.
pub(crate) fn of_history(history: ScoredHistory, pair: &Pair) -> RlRow {
    let ScoredHistory { uid, mut interactions, messages, mut targets, transfer, .. } = history;
    let (mid, last) = (pair.mid.position as usize, pair.last.position as usize);
    if messages.is_empty() {
        interactions.truncate(last + 1);
        return RlRow { targets, transfer, ..of_interactions(uid, interactions, pair) };
    }
    // The later target is taken out first, so that the earlier one keeps its index.
    let later = targets.remove(last);
    let stage_targets = vec![targets.remove(mid), later];
    let mid_position = (messages.len() / 2).max(1);
    RlRow { messages, stage_targets, mid_position, targets, transfer, ..records(uid, pair) }
}

/// Returns the row of a user whose interactions up to the later target are `history`.
pub(crate) fn of_interactions(uid: String, history: Vec<Interaction>, pair: &Pair) -> RlRow {
    let (mid, last) = (pair.mid.first as usize, pair.last.position as usize);
    RlRow { history, mid_position: mid, distance_to_end: last - mid, ..records(uid, pair) }
}

fn records(uid: String, Pair { mid, last }: &Pair) -> RlRow {
    let (mid_record, last_record) = (mid.record, last.record);
    RlRow { uid, mid_record, last_record, signal_gap: last_record.signal - mid_record.signal, ..RlRow::default() }
}
