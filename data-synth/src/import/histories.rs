//! Rules for the whole history of a user: empty, equal and repeated choices, transfer targets, the minimum length.

use std::collections::HashSet;

use chat::{History, Interaction};
use configs::synth::Duplicates;

use crate::import::Options;
use crate::import::html;

pub(super) const UNWRITTEN: &str = "choices of items without a text";
pub(super) const EQUAL: &str = "choices between two equal texts";
pub(super) const REPEATED: &str = "repeated choices";
const SHORT: &str = "users with a history below import.min_history";

/// The history of a user, and what was left out.
pub(super) struct Prepared {
    pub(super) history: Option<History>,
    /// Whether `import.transfer_targets` separated choices.
    pub(super) transferred: bool,
    pub(super) dropped: Vec<(&'static str, u64)>,
}

/// Prepares a complete history of interactions or messages: HTML, empty and equal texts, repetitions, transfer targets.
pub(super) fn complete(mut history: History, options: &Options) -> Prepared {
    if options.strip_html {
        let contents = history.messages.iter_mut().map(|message| &mut message.content);
        let all = history.interactions.iter_mut().chain(&mut history.targets).chain(&mut history.transfer);
        let texts =
            all.flat_map(|interaction| std::iter::once(&mut interaction.chosen).chain(&mut interaction.rejected));
        contents.chain(texts).for_each(|text| *text = html::strip(text).into_owned());
    }
    let (mut unwritten, mut equal) = (0, 0);
    for list in [&mut history.interactions, &mut history.targets, &mut history.transfer] {
        list.retain(|choice| {
            let empty = choice.chosen.is_empty() || choice.rejected.as_ref().is_some_and(String::is_empty);
            let same = !empty && choice.rejected.as_ref() == Some(&choice.chosen);
            (unwritten, equal) = (unwritten + u64::from(empty), equal + u64::from(same));
            !empty && !same
        });
    }
    let count = history.interactions.len();
    let mut first = firsts(&history.interactions, options.duplicates).into_iter();
    history.interactions.retain(|_| first.next().unwrap_or(true));
    let repeated = (count - history.interactions.len()) as u64;
    finish(history, options, vec![(UNWRITTEN, unwritten), (EQUAL, equal), (REPEATED, repeated)])
}

/// Returns for each choice whether it repeats none before.
fn firsts(choices: &[Interaction], duplicates: Duplicates) -> Vec<bool> {
    let mut seen = HashSet::new();
    let first = choices.iter().map(|Interaction { chosen, query, rejected, .. }| match duplicates {
        Duplicates::Keep => true,
        Duplicates::Interactions => seen.insert((chosen.as_str(), query.as_deref(), rejected.as_deref())),
        Duplicates::Items => seen.insert((chosen.as_str(), None, None)),
    });
    first.collect()
}

/// Separates transfer targets and sets missing queries. A history that is too short is left out, and counted in `dropped`.
pub(super) fn finish(mut history: History, options: &Options, mut dropped: Vec<(&'static str, u64)>) -> Prepared {
    let mut transferred = false;
    if options.transfer_targets > 0 && history.transfer.is_empty() {
        (history.interactions, history.transfer) = by_domain(history.interactions, options.transfer_targets);
        transferred = !history.transfer.is_empty();
    }
    if !options.query.is_empty() {
        let all = history.interactions.iter_mut().chain(&mut history.targets).chain(&mut history.transfer);
        all.filter(|interaction| interaction.query.is_none())
            .for_each(|interaction| interaction.query = Some(options.query.clone()));
    }
    let length = history.interactions.len().max(history.messages.len());
    let long = length >= options.min_history.max(1);
    if !long {
        dropped.push((SHORT, 1));
    }
    Prepared { history: long.then_some(history), transferred, dropped }
}

/// Splits interactions into those of the most frequent domain, the first one seen among equals, and the last `count` of each other.
fn by_domain(interactions: Vec<Interaction>, count: usize) -> (Vec<Interaction>, Vec<Interaction>) {
    let mut domains: Vec<(Option<String>, Vec<Interaction>)> = Vec::new();
    for interaction in interactions {
        match domains.iter_mut().find(|(domain, _)| *domain == interaction.domain) {
            Some((_, of_domain)) => of_domain.push(interaction),
            None => domains.push((interaction.domain.clone(), vec![interaction])),
        }
    }
    let most = domains.iter().map(|(_, of_domain)| of_domain.len()).max().unwrap_or(0);
    let Some(main) = domains.iter().position(|(_, of_domain)| of_domain.len() == most) else {
        return (Vec::new(), Vec::new());
    };
    let (_, history) = domains.remove(main);
    let last = |of_domain: Vec<Interaction>| {
        let skipped = of_domain.len().saturating_sub(count);
        of_domain.into_iter().skip(skipped)
    };
    (history, domains.into_iter().flat_map(|(_, of_domain)| last(of_domain)).collect())
}

#[cfg(test)]
mod tests {
    use chat::Message;
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::format;

    fn options(config: ImportConfig) -> Options {
        Options::new(&config, format("mind").unwrap(), 4)
    }

    #[test]
    fn complete_histories_pass_the_same_filters() {
        let pair = |query: Option<&str>, chosen: &str, rejected: &str| Interaction {
            query: query.map(Into::into),
            chosen: chosen.into(),
            rejected: Some(rejected.into()),
            ..Interaction::default()
        };
        let history = || History {
            uid: "u".into(),
            interactions: vec![pair(None, "<b>a</b>", "b"), pair(None, "<b>a</b>", "c"), pair(None, "<b>a</b>", "b")],
            ..History::default()
        };
        let filtered = |config: ImportConfig| {
            let Prepared { history, dropped, .. } =
                complete(history(), &options(ImportConfig { min_history: Some(2), ..config }));
            let repeated = dropped.iter().find(|(reason, _)| *reason == REPEATED).map_or(0, |(_, count)| *count);
            (repeated, history)
        };
        assert_eq!(filtered(ImportConfig::default()), (0, Some(history())));
        let interactions = ImportConfig { duplicates: Some(Duplicates::Interactions), ..ImportConfig::default() };
        let (repeated, kept) = filtered(interactions);
        assert_eq!((repeated, kept.unwrap().interactions[1].rejected.as_deref()), (1, Some("c")));
        let items = ImportConfig { duplicates: Some(Duplicates::Items), ..ImportConfig::default() };
        assert_eq!(filtered(items), (2, None));
        let shown = ImportConfig { strip_html: true, query: "Which?".into(), ..ImportConfig::default() };
        let kept = filtered(shown).1.unwrap();
        assert!(kept.interactions.iter().all(|i| i.chosen == "a" && i.query.as_deref() == Some("Which?")));

        let messages = vec![Message::user("<b>q</b>"), Message::assistant("r")];
        let of_messages = History { uid: "u".into(), messages, ..History::default() };
        let least = |min_history| {
            let config = ImportConfig { min_history: Some(min_history), strip_html: true, ..ImportConfig::default() };
            complete(of_messages.clone(), &options(config)).history
        };
        assert_eq!(least(2).unwrap().messages[0].content, "q");
        assert!(least(3).is_none());
    }

    #[test]
    fn choices_without_two_different_texts_are_left_out_of_complete_histories() {
        let pair = |chosen: &str, rejected: Option<&str>| Interaction {
            chosen: chosen.into(),
            rejected: rejected.map(Into::into),
            ..Interaction::default()
        };
        let history = History {
            uid: "u".into(),
            interactions: vec![
                pair("<br>", Some("b")),
                pair("c", Some("<img src=\"x\">")),
                pair("d", None),
                pair("<i>e</i>", Some("e")),
                pair("f", Some("g")),
            ],
            targets: vec![pair("h", Some("")), pair("h", Some("i"))],
            transfer: vec![pair("j", Some("j"))],
            ..History::default()
        };
        let config = ImportConfig { min_history: Some(1), strip_html: true, ..ImportConfig::default() };
        let Prepared { history, dropped, transferred } = complete(history, &options(config));
        let history = history.unwrap();
        assert_eq!(history.interactions, [pair("d", None), pair("f", Some("g"))]);
        assert_eq!((history.targets, history.transfer), (vec![pair("h", Some("i"))], Vec::new()));
        assert_eq!((dropped, transferred), (vec![(UNWRITTEN, 3), (EQUAL, 2), (REPEATED, 0)], false));
    }

    #[test]
    fn the_most_frequent_domain_is_the_history() {
        let interaction = |&(domain, chosen): &(&str, &str)| Interaction {
            chosen: chosen.into(),
            domain: Some(domain.into()),
            ..Interaction::default()
        };
        let all =
            [("film", "a"), ("book", "b"), ("game", "c"), ("book", "d"), ("film", "e"), ("film", "f"), ("book", "g")];
        let split = |count| {
            let (history, transfer) = by_domain(all.iter().map(interaction).collect(), count);
            let chosen = |list: Vec<Interaction>| list.into_iter().map(|i| i.chosen).collect::<Vec<_>>().join("");
            (chosen(history), chosen(transfer))
        };
        // Both have three; film was seen first.
        assert_eq!(split(2), ("aef".into(), "dgc".into()));
        assert_eq!(split(1), ("aef".into(), "gc".into()));
        assert_eq!(by_domain(Vec::new(), 2), (Vec::new(), Vec::new()));
    }
}
