//! Collects numbers from rows.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use chat::records::SignalRecord;
use chat::{Draw, Interaction, Message, reasoning};

use super::{Distribution, FileStats};
use crate::any_row::{AnyRow, RowKind};
use crate::teach::record::TaughtStage;

/// The numbers collected from the rows of a file.
pub(super) struct Collection {
    pub kind: RowKind,
    pub rows: usize,
    users: HashSet<u64>,
    choices: usize,
    with_query: usize,
    with_rejected: usize,
    counts: BTreeMap<String, BTreeMap<String, usize>>,
    /// In the order in which they first occurred.
    values: Vec<(&'static str, Vec<f64>)>,
}

impl Collection {
    /// Creates an empty collection of rows of a kind.
    pub fn new(kind: RowKind) -> Self {
        Self {
            kind,
            rows: 0,
            users: HashSet::new(),
            choices: 0,
            with_query: 0,
            with_rejected: 0,
            counts: BTreeMap::new(),
            values: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn add(&mut self, row: &AnyRow) {
        self.rows += 1;
        if self.kind == RowKind::Sft {
            return self.add_sft(row);
        }
        self.users.insert(Draw::new(0).text(&row.uid).bits());
        if self.kind == RowKind::TaughtUser {
            row.stages.iter().flatten().enumerate().for_each(|(index, stage)| self.add_stage(index, stage));
            return;
        }
        if row.messages().is_empty() {
            self.value("interactions per user", row.interactions().len() as f64);
        } else {
            self.value("messages per user", row.messages().len() as f64);
        }
        row.messages().iter().for_each(|message| self.length("message characters", &message.content));
        row.interactions().iter().for_each(|choice| self.add_choice(choice));
        row.later_choices().for_each(|choice| self.add_choice(choice));
        if !row.transfer.is_empty() {
            self.value("transfer choices per user", row.transfer.len() as f64);
        }
        let signals = row.signals.iter().flatten().chain(&row.target_signals).flatten();
        signals.for_each(|record| self.add_signal(record));
        if let Some(position) = row.mid_position {
            self.value("items before the first target", position as f64);
        }
        [row.mid_record, row.last_record].iter().flatten().for_each(|record| self.add_signal(record));
    }

    fn value(&mut self, name: &'static str, value: f64) {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.values.push((name, vec![value])),
        }
    }

    fn length(&mut self, name: &'static str, text: &str) {
        self.value(name, text.chars().count() as f64);
    }

    fn count(&mut self, group: &str, name: &str) {
        match self.counts.get_mut(group).and_then(|names| names.get_mut(name)) {
            Some(count) => *count += 1,
            None => {
                self.counts.entry(group.into()).or_default().insert(name.into(), 1);
            }
        }
    }

    fn add_choice(&mut self, choice: &Interaction) {
        self.choices += 1;
        self.length("item characters", &choice.chosen);
        if let Some(rejected) = &choice.rejected {
            self.with_rejected += 1;
            self.length("item characters", rejected);
        }
        if let Some(query) = &choice.query {
            self.with_query += 1;
            self.length("query characters", query);
        }
        self.count("choices by domain", choice.domain.as_deref().unwrap_or("(none)"));
        if let Some(task) = &choice.task {
            self.count("choices by task", task);
        }
    }

    fn add_signal(&mut self, record: &SignalRecord) {
        self.value("signal", record.signal);
        self.value("probability with the history", record.logprob1.exp());
        self.value("probability without the history", record.logprob2.exp());
    }

    fn add_sft(&mut self, row: &AnyRow) {
        let characters = |messages: &Option<Vec<Message>>| {
            messages.iter().flatten().map(|message| message.content.chars().count()).sum::<usize>() as f64
        };
        self.value("prompt characters", characters(&row.prompt));
        let answer: String = row.completion.iter().flatten().map(|message| message.content.as_str()).collect();
        match reasoning::split(&answer) {
            Some(parts) => {
                self.length("reasoning characters", parts.reasoning);
                self.length("summary characters", parts.summary);
            }
            None => self.length("completion characters", &answer),
        }
    }

    fn add_stage(&mut self, index: usize, stage: &TaughtStage) {
        self.count(&format!("users by outcome of stage {}", index + 1), &stage.outcome);
        self.value("candidates per stage", stage.candidates.len() as f64);
        for candidate in &stage.candidates {
            if let Some(verdict) = candidate.verdict {
                self.value("probability of a candidate's target", verdict);
                self.length("candidate summary characters", &candidate.summary);
            }
        }
        stage.retest.iter().for_each(|&p| self.value("probability of a target in the re-test", p));
        if let Some(merged) = &stage.merged {
            self.length("merged summary characters", merged);
        }
    }

    /// Returns the statistics.
    pub fn finish(self, path: &Path) -> FileStats {
        let share = |part: usize| (self.choices > 0).then(|| part as f64 / self.choices as f64);
        FileStats {
            path: path.into(),
            kind: self.kind,
            rows: self.rows,
            users: (self.kind != RowKind::Sft).then_some(self.users.len()),
            query_share: share(self.with_query),
            rejected_share: share(self.with_rejected),
            counts: self.counts,
            distributions: self
                .values
                .into_iter()
                .filter_map(|(name, values)| Distribution::new(name, values))
                .collect(),
        }
    }
}
