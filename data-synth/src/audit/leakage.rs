//! Leaks: summaries that quote a choice which the model should predict and has not read.

use std::collections::HashSet;

use chat::{HistoryItems, Interaction, Message};
use serde::{Deserialize, Serialize};

use super::words::{LEAST_TITLE, contains, title, words};
use super::{EXAMPLES, Finding, FindingKind};
use crate::signal::ScoredHistory;
use crate::teach::record::{TaughtStage, TaughtUser};

/// How many summaries quote a target item. A quote is a run of words of the item, or its title, that occurs neither in what the
/// model read nor in the past summary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leakage {
    /// The number of consecutive words that make a quote.
    pub ngram: usize,
    /// The number of merged summaries of passed stages.
    pub summaries: usize,
    /// The number of them that quote a target.
    pub leaking_summaries: usize,
    /// The number of passed stages whose merged reasoning quotes a target.
    pub leaking_reasonings: usize,
    /// The number of candidate summaries.
    pub candidates: usize,
    /// The number of them that quote their target.
    pub leaking_candidates: usize,
    /// The number of users whose histories are unknown.
    pub without_history: usize,
    /// The first quotes in rows.
    pub examples: Vec<String>,
}

impl Leakage {
    /// Returns a finding if a row quotes a target.
    pub(super) fn finding(&self) -> Option<Finding> {
        let (summaries, reasonings, all) = (self.leaking_summaries, self.leaking_reasonings, self.summaries);
        let message = format!(
            "{summaries} of {all} summaries and {reasonings} of {all} reasonings quote a choice that they should predict ({} words \
             or the title)",
            self.ngram
        );
        (summaries + reasonings > 0).then(|| Finding {
            kind: FindingKind::Leakage,
            message,
            examples: self.examples.clone(),
        })
    }

    /// Returns a note if candidates quote their targets, which are in no row.
    pub(super) fn note(&self) -> Option<String> {
        let Self { leaking_candidates: leaking, candidates, .. } = self;
        (*leaking > 0).then(|| {
            format!("{leaking} of {candidates} candidate summaries quote their target; rows hold merged summaries")
        })
    }
}

/// The words that a stage has read.
struct Read(Vec<Vec<String>>);

impl Read {
    /// Collects what `stage`, the `index`-th, has read: its third of the history, and the past summary.
    fn of(history: Option<&ScoredHistory>, index: usize, stage: &TaughtStage) -> Self {
        let mut texts: Vec<Vec<String>> = stage.past.iter().map(|past| words(past)).collect();
        let items = history.map_or(HistoryItems::Interactions(&[]), ScoredHistory::items);
        let third = items.len() / 3;
        match items.slice(index * third, (index + 1) * third) {
            HistoryItems::Interactions(choices) => texts.extend(choices.iter().flat_map(texts_of).map(words)),
            HistoryItems::Messages(messages) => texts.extend(messages.iter().map(text_of)),
        }
        Self(texts)
    }

    fn has(&self, sequence: &[String]) -> bool {
        self.0.iter().any(|text| contains(text, sequence))
    }
}

fn texts_of(choice: &Interaction) -> impl Iterator<Item = &str> {
    [Some(&choice.chosen), choice.rejected.as_ref(), choice.query.as_ref()].into_iter().flatten().map(String::as_str)
}

fn text_of(message: &Message) -> Vec<String> {
    words(&message.content)
}

/// Returns the first run of words of an item of `target` that `text` quotes.
fn quote(text: &str, target: &Interaction, read: &Read, ngram: usize) -> Option<String> {
    let text = words(text);
    let known: HashSet<&[String]> = text.windows(ngram).collect();
    let items = [Some(&target.chosen), target.rejected.as_ref()];
    items.into_iter().flatten().find_map(|item| {
        let item_words = words(item);
        let run = item_words.windows(ngram).find(|run| known.contains(run) && !read.has(run));
        let title = words(title(item));
        let quoted = (LEAST_TITLE..ngram).contains(&title.len()) && contains(&text, &title) && !read.has(&title);
        run.map(|run| run.join(" ")).or_else(|| quoted.then(|| title.join(" ")))
    })
}

/// Searches the summaries of a user, whose history is known if the step signal scored it.
pub(super) fn add(leakage: &mut Leakage, user: &TaughtUser, history: Option<&ScoredHistory>) {
    let ngram = leakage.ngram;
    leakage.without_history += usize::from(history.is_none() && !user.stages.is_empty());
    for (index, stage) in user.stages.iter().enumerate() {
        let read = Read::of(history, index, stage);
        for candidate in stage.candidates.iter().filter(|candidate| !candidate.summary.is_empty()) {
            leakage.candidates += 1;
            let target = stage.targets.get(candidate.target);
            let leaks = target.is_some_and(|target| quote(&candidate.summary, target, &read, ngram).is_some());
            leakage.leaking_candidates += usize::from(leaks);
        }
        let Some(merged) = stage.merged.as_deref().filter(|_| user.rows > 0) else { continue };
        leakage.summaries += 1;
        let of_any = |text: &str| stage.targets.iter().find_map(|target| quote(text, target, &read, ngram));
        let in_summary = of_any(merged);
        let in_reasoning = stage.merged_reasoning.as_deref().and_then(of_any);
        leakage.leaking_summaries += usize::from(in_summary.is_some());
        leakage.leaking_reasonings += usize::from(in_reasoning.is_some());
        if let Some(found) = in_summary.or(in_reasoning).filter(|_| leakage.examples.len() < EXAMPLES) {
            leakage.examples.push(format!("{}, stage {}: \"{found}\"", user.uid, index + 1));
        }
    }
}
