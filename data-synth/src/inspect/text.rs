//! A user as text.

use chat::records::SignalRecord;
use chat::{Interaction, Message, RlRow};

use super::Found;
use crate::teach::record::{TaughtCandidate, TaughtStage, TaughtUser};

/// The number of characters of an item that are shown.
const ITEM: usize = 160;

/// Returns all that was found about a user.
pub(super) fn of(uid: &str, found: &Found) -> String {
    let mut text = format!("User {uid}\n");
    text += &history(found);
    found.rl.iter().for_each(|(line, row)| text += &rl(*line, row));
    if let Some((before, user)) = &found.taught {
        text += &taught(*before, user);
    }
    text
}

/// Returns a text on one line, cut after [`ITEM`] characters.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(ITEM) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn indented(text: &str, space: &str) -> String {
    text.lines().map(|line| format!("{space}{line}\n")).collect()
}

fn history(found: &Found) -> String {
    let (interactions, messages, targets, transfer) = match (&found.scored, &found.history) {
        (Some(scored), _) => {
            (&scored.interactions[..], &scored.messages[..], &scored.targets[..], &scored.transfer[..])
        }
        (None, Some((_, plain))) => {
            (&plain.interactions[..], &plain.messages[..], &plain.targets[..], &plain.transfer[..])
        }
        (None, None) => return String::new(),
    };
    let shown = interactions.len().max(messages.len());
    let place = match (&found.scored, &found.history) {
        (None, Some((name, _))) => (*name).to_owned(),
        // The step signal keeps the last `signal.max_interactions`.
        (_, Some((name, plain))) if plain.items().len() != shown => {
            format!("signal/scored.jsonl, the last {shown} of {} of {name}", plain.items().len())
        }
        _ => "signal/scored.jsonl".to_owned(),
    };
    let signal = |list: fn(&crate::signal::ScoredHistory) -> &Vec<Option<SignalRecord>>, index: usize| {
        found.scored.as_ref().and_then(|scored| list(scored).get(index).copied().flatten())
    };
    let mut text = format!("\nHistory ({place}): {} interactions, {} messages\n", interactions.len(), messages.len());
    for (index, item) in interactions.iter().enumerate() {
        text += &choice(&format!("{index:>4}"), item, signal(|scored| &scored.signals, index));
    }
    messages.iter().enumerate().for_each(|(index, turn)| text += &message(index, turn));
    for (index, item) in targets.iter().enumerate() {
        text += &choice(&format!("target {index}"), item, signal(|scored| &scored.target_signals, index));
    }
    for (index, item) in transfer.iter().enumerate() {
        text += &choice(&format!("transfer {index}"), item, None);
    }
    text
}

fn choice(label: &str, item: &Interaction, signal: Option<SignalRecord>) -> String {
    let domain = item.domain.as_ref().map_or(String::new(), |domain| format!("  [{domain}]"));
    let query = item.query.as_ref().map_or(String::new(), |query| format!("  query: {}", short(query)));
    let signal = signal.map_or(String::new(), |SignalRecord { logprob1, logprob2, signal }| {
        format!("  signal {signal:+.3} (probability {:.3}, without the history {:.3})", logprob1.exp(), logprob2.exp())
    });
    let rejected = item.rejected.as_ref().map_or(String::new(), |rejected| format!("       − {}\n", short(rejected)));
    format!("  {label}{domain}{query}{signal}\n       + {}\n{rejected}", short(&item.chosen))
}

fn message(index: usize, turn: &Message) -> String {
    let role = format!("{:?}", turn.role).to_lowercase();
    format!("  {index:>4}  {role}: {}\n", short(&turn.content))
}

fn rl(line: usize, row: &RlRow) -> String {
    let mut text = format!("\nRL row (prune/rl.jsonl:{line})\n");
    let position = row.mid_position;
    if row.messages.is_empty() {
        let last = row.history.len().saturating_sub(1);
        text += &format!(
            "  stage 1 reads the interactions before {position}, stage 2 those from {position} to before {last}\n"
        );
        let targets = [(position, row.mid_record), (last, row.last_record)];
        for (index, record) in targets {
            if let Some(item) = row.history.get(index) {
                text += &choice(&format!("target {index}"), item, Some(record));
            }
        }
    } else {
        text += &format!("  stage 1 reads {position} of {} messages, stage 2 the others\n", row.messages.len());
        let records = [row.mid_record, row.last_record].into_iter().map(Some).chain(std::iter::repeat(None));
        for (index, (item, record)) in row.stage_targets.iter().zip(records).enumerate() {
            text += &choice(&format!("target of stage {}", index + 1), item, record);
        }
    }
    row.references.iter().for_each(|reference| text += &format!("  reference\n{}", indented(reference, "       ")));
    text
}

fn taught(before: usize, user: &TaughtUser) -> String {
    let mut text = String::from("\nTeaching (teach/users.jsonl)\n");
    if user.stages.is_empty() {
        text += "  the history is too short\n";
    }
    for (index, found) in user.stages.iter().enumerate() {
        text += &stage(index + 1, found);
    }
    if let Some(error) = &user.error {
        text += &format!("  left out: {error}\n");
    }
    match user.rows {
        0 => text += "  no SFT rows\n",
        rows => text += &format!("  SFT rows: lines {} to {} of teach/sft.jsonl\n", before + 1, before + rows),
    }
    text
}

fn stage(number: usize, stage: &TaughtStage) -> String {
    let mut text = format!("  Stage {number}: {}\n", stage.outcome);
    if let Some(past) = &stage.past {
        text += &format!("    past summary\n{}", indented(past, "       "));
    }
    for (index, found) in stage.candidates.iter().enumerate() {
        text += &candidate(index + 1, found, stage);
    }
    if let Some(merged) = &stage.merged {
        let reasoning = stage.merged_reasoning.as_deref().unwrap_or_default();
        text += &format!("    merged reasoning\n{}", indented(reasoning, "       "));
        text += &format!("    merged summary\n{}", indented(merged, "       "));
    }
    if !stage.retest.is_empty() {
        let verdicts: Vec<String> = stage.retest.iter().map(|p| format!("{p:.3}")).collect();
        text += &format!("    re-test: {}\n", verdicts.join(", "));
    }
    text
}

fn candidate(number: usize, candidate: &TaughtCandidate, stage: &TaughtStage) -> String {
    let shown = if candidate.chosen_first { "the chosen item first" } else { "the rejected item first" };
    let verdict = match candidate.verdict {
        Some(p) if p > 0.5 => format!("correct, probability {p:.3}"),
        Some(p) => format!("wrong, probability {p:.3}"),
        None if candidate.summary.is_empty() => "malformed".into(),
        None => "not verified".into(),
    };
    let picked = match candidate.verifier_chose_a {
        Some(true) => "; the verifier picked item A",
        Some(false) => "; the verifier picked item B",
        None => "",
    };
    let mut text = format!("    candidate {number}, shown {shown}: {verdict}{picked}\n");
    if let Some(target) = stage.targets.get(candidate.target) {
        text += &indented(&choice(&format!("target {}", candidate.target), target, None), "    ");
    }
    let written = if candidate.summary.is_empty() { &candidate.reasoning } else { &candidate.summary };
    text + &indented(written, "       ")
}
