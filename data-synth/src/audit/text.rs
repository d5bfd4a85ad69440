//! An audit as text.

use super::{Audit, StageRates};

impl Audit {
    /// Returns the audit as text: findings first, then all numbers.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match self.findings.len() {
            0 => text += "No findings.\n",
            count => text += &format!("{count} finding{}:\n", if count == 1 { "" } else { "s" }),
        }
        for finding in &self.findings {
            text += &format!("- {}\n", finding.message);
            finding.examples.iter().for_each(|example| text += &format!("    {example}\n"));
        }
        self.notes.iter().for_each(|note| text += &format!("Note: {note}.\n"));
        self.numbers(&mut text);
        text
    }

    fn numbers(&self, text: &mut String) {
        for (index, stage) in self.stages.iter().enumerate() {
            *text += &format!("\nStage {}\n{}", index + 1, stage_text(stage));
        }
        if let Some(leakage) = &self.leakage {
            let super::Leakage {
                ngram,
                summaries,
                leaking_summaries,
                leaking_reasonings,
                candidates,
                leaking_candidates,
                ..
            } = leakage;
            *text += &format!(
                "\nQuotes of targets ({ngram} words or the title)\n  summaries   {leaking_summaries} of {summaries}\n  \
                 reasonings  {leaking_reasonings} of {summaries}\n  candidates  {leaking_candidates} of {candidates}\n"
            );
        }
        if !self.bias.is_empty() {
            *text += "\nPosition bias: item A picked\n";
        }
        for bias in &self.bias {
            let share = percent(bias.first, bias.picks);
            *text +=
                &format!("  {:<8}  {} of {} ({share}), p = {:.3}\n", bias.model, bias.first, bias.picks, bias.p_value);
        }
        if let Some(found) = &self.duplicates {
            *text += &format!(
                "\nNear-duplicates (similarity of at least {})\n  {} of {} summaries, in {} groups\n",
                found.similarity, found.near_duplicates, found.summaries, found.groups
            );
        }
        for overlap in &self.overlaps {
            *text += &format!(
                "\nShared with {}\n  users    {} of {}\n  choices  {} of {}\n  items    {} of {}\n",
                overlap.path.display(),
                overlap.shared_users,
                overlap.users,
                overlap.shared_choices,
                overlap.choices,
                overlap.shared_items,
                overlap.items
            );
        }
    }
}

fn percent(part: usize, all: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / all.max(1) as f64)
}

fn stage_text(stage: &StageRates) -> String {
    let mut text = String::new();
    let mut line = |name: &str, part: usize, all: usize| {
        text += &format!("  {name:<28}  {part} of {all} ({})\n", percent(part, all));
    };
    for (outcome, users) in &stage.outcomes {
        line(&format!("users: {outcome}"), *users, stage.entered);
    }
    line("candidates: malformed", stage.malformed, stage.candidates);
    line("candidates: correct", stage.correct, stage.candidates);
    line("re-tested targets: correct", stage.retested_correct, stage.retested);
    text
}
