//! PersonaMem: multiple-choice questions in a CSV, and the long conversations they refer to in a file of JSON lines.

use std::collections::HashMap;
use std::path::PathBuf;

use chat::Interaction;
use configs::synth::MessageUsers;

use super::conversations::{Conversations, Question, target};
use super::rows::{self, READY, Row, UNUSED_BY_MESSAGES};
use super::{Collector, Format, ImportError, Source, folder};

/// The field of the option that fits, such as `(c)`.
const CORRECT: &str = "correct_answer";
/// The field of the options.
const OPTIONS: &str = "all_options";
/// The field of the number of messages that precede the question.
const END: &str = "end_index_in_shared_context";

/// The format `personamem_v1`.
pub(super) const FORMAT: Format = Format {
    name: "personamem_v1",
    about: "PersonaMem v1: questions_SIZE.csv and shared_contexts_SIZE.jsonl",
    defaults: READY,
    unused: UNUSED_BY_MESSAGES,
    read,
};

/// A question before its conversation is read.
struct Asked {
    id: String,
    /// Number of messages that precede the question.
    end: usize,
    target: Interaction,
}

/// The questions of each conversation, by its id.
type ByContext = HashMap<String, Vec<Asked>>;

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let (questions, contexts) = both(source.paths)?;
    source.plan(&[questions.as_slice(), contexts.as_slice()].concat(), collector)?;
    let mut asked = ByContext::new();
    for path in questions {
        rows::for_each(&path, None, collector, |_, row| {
            let question = question(row, source.options.seed)?;
            asked.entry(row.required("shared_context_id")?.into_owned()).or_default().push(question);
            Ok(())
        })?;
    }
    let mut conversations = Conversations::new(source.options);
    for path in contexts {
        // A conversation has up to a million tokens, so only one is in memory.
        rows::for_each(&path, None, collector, |collector, row| {
            for (id, messages) in row.object()? {
                if !asked.contains_key(id) {
                    continue;
                }
                // The questions about a malformed conversation stay, and are counted below.
                let messages = row.messages(messages, id)?;
                let questions = asked.remove(id).unwrap_or_default();
                let questions = match source.options.message_users {
                    MessageUsers::Question => questions,
                    MessageUsers::User => later(questions, collector),
                };
                for Asked { id: question, end, target } in questions {
                    let messages = messages[..end.min(messages.len())].to_vec();
                    conversations.add(Question { id: question, user: id.clone(), messages, target }, collector)?;
                }
            }
            Ok(())
        })?;
    }
    let left = asked.values().map(Vec::len).sum::<usize>();
    collector.dropped("questions whose shared context is missing or malformed", left as u64);
    conversations.finish(collector)
}

/// Returns the files of questions and those of conversations.
fn both(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ImportError> {
    let expected = "questions_SIZE.csv and shared_contexts_SIZE.jsonl, one of each; name both files if there are more";
    let ours = |name: &str| name.starts_with("questions_") || name.starts_with("shared_contexts_");
    let files = folder::files(paths, expected, |name| ours(name.rsplit('/').next().unwrap_or(name)))?;
    let is_csv = |path: &PathBuf| path.to_string_lossy().trim_end_matches(".gz").ends_with(".csv");
    let (questions, contexts): (Vec<_>, Vec<_>) = files.into_iter().partition(is_csv);
    let found = questions.len() == 1 && contexts.len() == 1;
    if found {
        return Ok((questions, contexts));
    }
    let path = paths.first().cloned().unwrap_or_default();
    Err(ImportError::Missing { path, expected: expected.into() })
}

fn question(row: &Row<'_>, seed: u64) -> Result<Asked, ImportError> {
    let id = row.required("question_id")?.into_owned();
    let query = row.required("user_question_or_message")?.into_owned();
    let end = row.required(END)?;
    let end = end.trim().parse().map_err(|_| row.bad(END, format!("is `{end}`; expected a number of messages")))?;
    let (chosen, others) = options(row)?;
    let target = target(query, chosen, others, &id, seed)
        .ok_or_else(|| row.bad(OPTIONS, "has one option; expected at least two"))?;
    Ok(Asked { id, end, target })
}

/// Returns the fitting option and the others, without their labels.
fn options(row: &Row<'_>) -> Result<(String, Vec<String>), ImportError> {
    let options = row.texts(OPTIONS)?;
    let correct = row.required(CORRECT)?;
    let labels: Vec<Option<(char, &str)>> = options.iter().map(|option| labeled(option)).collect();
    let wanted = labeled(&correct).map(|(letter, _)| letter);
    let by_label = wanted.and_then(|letter| labels.iter().position(|l| l.is_some_and(|(label, _)| label == letter)));
    // Options without labels are in the order of the letters.
    let by_order = wanted.filter(|_| labels.iter().all(Option::is_none)).map(|letter| letter as usize - 'a' as usize);
    let index = by_label.or(by_order).filter(|&index| index < options.len()).ok_or_else(|| {
        row.bad(
            CORRECT,
            format!("is `{correct}`; expected the letter of one of the {} options, such as (a)", options.len()),
        )
    })?;
    let text = |(option, label): (&String, &Option<(char, &str)>)| label.map_or(option.as_str(), |(_, t)| t).to_owned();
    let mut texts: Vec<String> = options.iter().zip(&labels).map(text).collect();
    let chosen = texts.remove(index);
    Ok((chosen, texts))
}

/// Splits `(b) text` into the letter and the text.
fn labeled(option: &str) -> Option<(char, &str)> {
    let (label, text) = option.trim_start().strip_prefix('(')?.split_once(')')?;
    let mut letters = label.trim().chars();
    let letter = letters.next()?.to_ascii_lowercase();
    (letters.next().is_none() && letter.is_ascii_lowercase()).then(|| (letter, text.trim()))
}

/// Keeps the later half of the questions of a conversation, and cuts the conversation before all of them, so that no target precedes a
/// message.
fn later(mut questions: Vec<Asked>, collector: &mut Collector<'_>) -> Vec<Asked> {
    let mut ends: Vec<usize> = questions.iter().map(|question| question.end).collect();
    ends.sort_unstable();
    let count = questions.len();
    let cut = ends[count / 2];
    questions.retain(|question| question.end >= cut);
    collector.dropped("questions before the end of their user's messages", (count - questions.len()) as u64);
    questions.iter_mut().for_each(|question| question.end = cut);
    questions
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::testing::{Imported, import_files};

    const CONTEXTS: &str = r#"{"ctx1": [{"role": "system", "content": "Name: Ada"}, {"role": "user", "content": "u1"}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "u2"}]}
{"unused": [{"role": "user", "content": "x"}]}
"#;

    fn questions(rows: &[(&str, &str, &str, &str, &str)]) -> String {
        let header = "persona_id,question_id,user_question_or_message,correct_answer,all_options,shared_context_id,end_index_in_shared_context\n";
        let line = |(id, correct, options, context, end): &(&str, &str, &str, &str, &str)| {
            format!("0,{id},Ask {id}?,{correct},\"{}\",{context},{end}\n", options.replace('"', "\"\""))
        };
        rows.iter().map(line).fold(header.to_owned(), |text, line| text + &line)
    }

    fn imported(questions: &str, contexts: &str, message_users: MessageUsers) -> Result<Imported, String> {
        let format = "personamem_v1".into();
        let config =
            ImportConfig { format, min_history: Some(1), test_share: 0.0, message_users, ..ImportConfig::default() };
        let files = [("questions_32k.csv", questions.as_bytes()), ("shared_contexts_32k.jsonl", contexts.as_bytes())];
        import_files(&files, &config, 1)
    }

    const LABELED: &str = r#"['(a) Yes, "so".', "(b) It's no.", '(c) Both']"#;

    #[test]
    fn a_question_reads_the_messages_before_it() {
        let rows = [
            ("q1", "(b)", LABELED, "ctx1", "3"),
            ("q2", "(c)", "[\"one\", \"two\", \"three\"]", "ctx1", "4"),
            ("q3", "(a)", LABELED, "gone", "2"),
            ("q4", "(a)", LABELED, "ctx1", "99"),
        ];
        let Imported { train, card, .. } = imported(&questions(&rows), CONTEXTS, MessageUsers::Question).unwrap();
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["q1", "q2", "q4"]);
        let contents = |index: usize| train[index].messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>();
        assert_eq!(
            [contents(0), contents(1), contents(2)],
            [vec!["u1", "a1"], vec!["u1", "a1", "u2"], vec!["u1", "a1", "u2"]]
        );
        let target = &train[0].targets[0];
        assert_eq!((target.query.as_deref(), target.chosen.as_str()), (Some("Ask q1?"), "It's no."));
        assert!(["Yes, \"so\".", "Both"].contains(&target.rejected.as_deref().unwrap()));
        assert_eq!(train[1].targets[0].chosen, "three");
        assert_eq!(card.dropped["system messages, which describe the persona"], 3);
        assert_eq!(card.dropped["questions whose shared context is missing or malformed"], 1);
    }

    #[test]
    fn a_conversation_is_a_user_with_the_later_questions_if_asked() {
        let rows = [
            ("q1", "(a)", LABELED, "ctx1", "4"),
            ("q2", "(a)", LABELED, "ctx1", "2"),
            ("q3", "(b)", LABELED, "ctx1", "3"),
        ];
        let Imported { train, card, .. } = imported(&questions(&rows), CONTEXTS, MessageUsers::User).unwrap();
        assert_eq!((train.len(), train[0].uid.as_str()), (1, "ctx1"));
        // The questions are after 2, 3 and 4 messages, so the messages end after the middle one, 3.
        assert_eq!(train[0].messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["u1", "a1"]);
        let queries: Vec<&str> = train[0].targets.iter().filter_map(|target| target.query.as_deref()).collect();
        assert_eq!(queries, ["Ask q1?", "Ask q3?"]);
        assert_eq!(card.dropped["questions before the end of their user's messages"], 1);
    }

    #[test]
    fn questions_about_a_malformed_conversation_are_counted() {
        let contexts =
            CONTEXTS.replace("\"assistant\"", "\"tool\"") + "{\"ctx2\": [{\"role\": \"user\", \"content\": \"c\"}]}\n";
        let rows = [("q1", "(a)", LABELED, "ctx1", "3"), ("q2", "(a)", LABELED, "ctx2", "1")];
        let files = [
            ("questions_32k.csv", questions(&rows).into_bytes()),
            ("shared_contexts_32k.jsonl", contexts.into_bytes()),
        ];
        let files = files.each_ref().map(|(name, content)| (*name, content.as_slice()));
        let config = ImportConfig {
            format: "personamem_v1".into(),
            min_history: Some(1),
            skip_bad: true,
            test_share: 0.0,
            ..ImportConfig::default()
        };
        let Imported { train, card, .. } = import_files(&files, &config, 1).unwrap();
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["q2"]);
        assert_eq!(card.dropped["questions whose shared context is missing or malformed"], 1);
        assert_eq!(card.bad_rows.values().sum::<u64>(), 1);
    }

    #[test]
    fn malformed_rows_and_missing_files_are_named() {
        let good = ("q1", "(a)", LABELED, "ctx1", "3");
        for (bad, words) in [
            (
                ("q2", "(d)", LABELED, "ctx1", "3"),
                "field `correct_answer` is `(d)`; expected the letter of one of the 3 options",
            ),
            (("q2", "b", LABELED, "ctx1", "3"), "field `correct_answer` is `b`"),
            (("q2", "(a)", "['(a) x']", "ctx1", "3"), "field `all_options` has one option; expected at least two"),
            (("q2", "(a)", "['(a) x', ", "ctx1", "3"), "field `all_options` is neither JSON nor a Python literal"),
            (("q2", "(a)", LABELED, "ctx1", "x"), "field `end_index_in_shared_context` is `x`; expected a number"),
            (("q2", "(a)", LABELED, "", "3"), "field `shared_context_id` is missing or empty"),
        ] {
            let error = imported(&questions(&[good, bad]), CONTEXTS, MessageUsers::Question).err().unwrap();
            assert!(error.contains("questions_32k.csv:3: ") && error.contains(words), "{error}");
        }
        let cut = &CONTEXTS[..100];
        let error = imported(&questions(&[good]), cut, MessageUsers::Question).err().unwrap();
        assert!(error.contains("shared_contexts_32k.jsonl:1: is not JSON"), "{error}");
        let config = ImportConfig { format: "personamem_v1".into(), ..ImportConfig::default() };
        let only = [("questions_32k.csv", "a\n".as_bytes())];
        let error = import_files(&only, &config, 1).err().unwrap();
        assert!(error.contains("expected questions_SIZE.csv and shared_contexts_SIZE.jsonl"), "{error}");
    }

    #[test]
    fn labels_are_a_letter_in_brackets() {
        assert_eq!(labeled(" (C) text (x) "), Some(('c', "text (x)")));
        assert_eq!(labeled("(c)"), Some(('c', "")));
        for other in ["c) text", "(cd) text", "(1) text", "text (c)", "(c text", ""] {
            assert_eq!(labeled(other), None, "{other}");
        }
    }
}
