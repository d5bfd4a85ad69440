//! HiCUPID: questions with a personalized and a general answer, and the dialogues in which the user spoke of the matter.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::PathBuf;

use chat::{Interaction, Message};
use serde_json::Value as Json;

use super::conversations::{Conversations, Question, answer};
use super::rows::{self, READY, Row, UNUSED_BY_MESSAGES};
use super::{Collector, Format, ImportError, Source, folder};

/// The type of the questions about a single trait of the user, the only ones of the published evaluation.
const PERSONA: &str = "persona";
/// The field of the dialogues of a question, and of the dialogue of a turn.
const DIALOGUE: &str = "dialogue_id";

/// The format `hicupid`.
pub(super) const FORMAT: Format = Format {
    name: "hicupid",
    about: "HiCUPID: files of the sets `qa` and `dialogue` (JSON, JSON lines or Parquet); of a folder, test_2 and test",
    defaults: READY,
    unused: UNUSED_BY_MESSAGES,
    read,
};

/// A dialogue of a user: the ids of the user and of the dialogue.
type DialogueId = (String, String);

/// A question before its dialogues are read.
struct Asked {
    id: String,
    user: String,
    dialogues: Vec<String>,
    target: Interaction,
}

/// A turn of the user and the answer to it, with its place in the dialogue if the file says it.
struct Turn {
    number: Option<u64>,
    messages: Vec<Message>,
}

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let (questions, dialogues) = both(source.paths)?;
    source.plan(&[questions.as_slice(), dialogues.as_slice()].concat(), collector)?;
    let asked = questions_of(&questions, collector)?;
    let mut turns: HashMap<DialogueId, Vec<Turn>> = HashMap::new();
    for question in &asked {
        for dialogue in &question.dialogues {
            turns.entry((question.user.clone(), dialogue.clone())).or_default();
        }
    }
    for path in dialogues {
        rows::for_each(&path, None, collector, |_, row| {
            let id = (row.required("user_id")?.into_owned(), row.required(DIALOGUE)?.into_owned());
            // Most dialogues are about none of the questions.
            if let Some(turns) = turns.get_mut(&id) {
                turns.push(turn(row)?);
            }
            Ok(())
        })?;
    }
    // The sort is stable, so turns without a number stay in the order of the file.
    turns.values_mut().for_each(|turns| turns.sort_by_key(|turn| turn.number));
    let mut conversations = Conversations::new(source.options);
    for Asked { id, user, dialogues, target } in asked {
        let mut messages = Vec::new();
        for dialogue in dialogues {
            let turns = turns.get(&(user.clone(), dialogue)).map_or(&[][..], Vec::as_slice);
            collector.dropped("dialogues of questions that are not in the files", u64::from(turns.is_empty()));
            messages.extend(turns.iter().flat_map(|turn| turn.messages.iter().cloned()));
        }
        conversations.add(Question { id, user: format!("user_{user}"), messages, target }, collector)?;
    }
    conversations.finish(collector)
}

/// Returns the files of questions and those of dialogues, by their paths.
fn both(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<PathBuf>), ImportError> {
    let expected =
        "files of `qa` and of `dialogue`, with these words in their paths (in a folder: qa/test_2* and dialogue/test*)";
    let missing = |path: PathBuf| ImportError::Missing { path, expected: expected.into() };
    let (mut questions, mut dialogues) = (Vec::new(), Vec::new());
    for path in paths {
        let inside = path.file_name().unwrap_or_default().to_string_lossy();
        let wanted = |name: &str| rows::holds_objects(name) && in_test(&format!("{inside}/{name}"));
        for file in folder::files(std::slice::from_ref(path), expected, wanted)? {
            let name = file.to_string_lossy().into_owned();
            match name.rfind("qa").cmp(&name.rfind("dialogue")) {
                Ordering::Greater => questions.push(file),
                Ordering::Less => dialogues.push(file),
                Ordering::Equal => return Err(missing(file)),
            }
        }
    }
    if questions.is_empty() || dialogues.is_empty() {
        return Err(missing(paths.first().cloned().unwrap_or_default()));
    }
    Ok((questions, dialogues))
}

/// Returns whether a file of the repository is one of the published evaluation: questions about new users, and all test dialogues.
fn in_test(name: &str) -> bool {
    let is = |set: &str, split: &str| {
        let behind = name.rfind(set).map(|at| &name[at + set.len()..]);
        behind.is_some_and(|rest| rest.trim_start_matches(['/', '-', '_']).starts_with(split))
    };
    is("qa", "test_2") || is("dialogue", "test")
}

fn questions_of(files: &[PathBuf], collector: &mut Collector<'_>) -> Result<Vec<Asked>, ImportError> {
    let (mut asked, mut number): (Vec<Asked>, u64) = (Vec::new(), 0);
    for path in files {
        rows::for_each(path, None, collector, |collector, row| {
            // The number of the row, whatever becomes of the rows before.
            let id = number.to_string();
            number += 1;
            if row.text("type")?.is_some_and(|kind| kind != PERSONA) {
                collector.dropped("questions of another type than persona", 1);
                return Ok(());
            }
            asked.push(Asked {
                id,
                user: row.required("user_id")?.into_owned(),
                dialogues: dialogues(row)?,
                target: answer(
                    row.required("question")?.into_owned(),
                    row.required("personalized_answer")?.into_owned(),
                    row.required("general_answer")?.into_owned(),
                ),
            });
            Ok(())
        })?;
    }
    Ok(asked)
}

/// Returns the ids of a question's dialogues: a list, or a single one.
fn dialogues(row: &Row<'_>) -> Result<Vec<String>, ImportError> {
    let list = row.object()?.get(DIALOGUE).is_some_and(Json::is_array);
    if list { row.texts(DIALOGUE) } else { row.required(DIALOGUE).map(|id| vec![id.into_owned()]) }
}

fn turn(row: &Row<'_>) -> Result<Turn, ImportError> {
    const NUMBER: &str = "turn_id";
    let number = match row.text(NUMBER)? {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| row.bad(NUMBER, format!("is `{text}`; expected a whole number")))?),
    };
    let mut messages = Vec::new();
    if let Some(text) = row.text("user")? {
        messages.push(Message::user(text));
    }
    if let Some(text) = row.text("assistant")? {
        messages.push(Message::assistant(text));
    }
    Ok(Turn { number, messages })
}

#[cfg(test)]
mod tests {
    use configs::synth::{ImportConfig, MessageUsers};

    use super::*;
    use crate::import::testing::{Imported, import_files};

    const QUESTIONS: &str = r#"{"user_id": 1, "dialogue_id": [5], "question_id": 0, "question": "What to read?", "personalized_answer": "A sea novel.", "general_answer": "A novel.", "type": "persona", "metadata": {"persona": {"category": "hobby", "entity": "the sea", "relation": "likes", "sentiment": "positive"}}}
{"user_id": 1, "dialogue_id": [5, 6], "question_id": 1, "question": "When?", "personalized_answer": "At six.", "general_answer": "Soon.", "type": "schedule"}
{"user_id": 2, "dialogue_id": 5, "question_id": 2, "question": "What to eat?", "personalized_answer": "Rice.", "general_answer": "Food.", "type": "persona"}
{"user_id": 1, "dialogue_id": [7, 99], "question_id": 3, "question": "Where to go?", "personalized_answer": "To the harbor.", "general_answer": "Out.", "type": "persona"}
"#;
    const DIALOGUES: &str = r#"{"user_id": 1, "dialogue_id": 5, "turn_id": 1, "user": "And I sail.", "assistant": "Nice.", "type": "persona"}
{"user_id": 1, "dialogue_id": 5, "turn_id": 0, "user": "I love the sea.", "assistant": "Tell me more.", "type": "persona"}
{"user_id": 2, "dialogue_id": 5, "turn_id": 0, "user": "I cook rice.", "assistant": "", "type": "persona"}
{"user_id": 1, "dialogue_id": 6, "turn_id": 0, "user": "At six I swim.", "assistant": "Noted.", "type": "schedule"}
{"user_id": 1, "dialogue_id": 7, "turn_id": 0, "user": "Harbors calm me.", "assistant": "Good.", "type": "persona"}
"#;

    fn config(message_users: MessageUsers) -> ImportConfig {
        let format = "hicupid".into();
        ImportConfig { format, min_history: Some(1), test_share: 0.0, message_users, ..ImportConfig::default() }
    }

    fn imported(message_users: MessageUsers) -> Imported {
        let files = [("qa/test_2.jsonl", QUESTIONS.as_bytes()), ("dialogue/test.jsonl", DIALOGUES.as_bytes())];
        import_files(&files, &config(message_users), 1).unwrap()
    }

    fn sea() -> Vec<Message> {
        let (user, model) = (Message::user, Message::assistant);
        vec![user("I love the sea."), model("Tell me more."), user("And I sail."), model("Nice.")]
    }

    #[test]
    fn a_question_reads_its_own_dialogues_of_its_own_user() {
        let Imported { train, card, .. } = imported(MessageUsers::Question);
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["0", "2", "3"]);
        assert_eq!(train[0].messages, sea());
        let target = answer("What to read?".into(), "A sea novel.".into(), "A novel.".into());
        assert_eq!((&train[0].targets, train[0].interactions.len()), (&vec![target], 0));
        assert_eq!(train[1].messages, [Message::user("I cook rice.")], "the dialogue of another user has the same id");
        assert_eq!(train[2].messages, [Message::user("Harbors calm me."), Message::assistant("Good.")]);
        assert_eq!(card.dropped["questions of another type than persona"], 1);
        assert_eq!(card.dropped["dialogues of questions that are not in the files"], 1);
    }

    #[test]
    fn a_user_has_all_dialogues_and_questions() {
        let train = imported(MessageUsers::User).train;
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["user_1", "user_2"]);
        let harbor = [Message::user("Harbors calm me."), Message::assistant("Good.")];
        assert_eq!(train[0].messages, [sea(), harbor.to_vec()].concat());
        let chosen: Vec<&str> = train[0].targets.iter().map(|target| target.chosen.as_str()).collect();
        assert_eq!(chosen, ["A sea novel.", "To the harbor."]);
    }

    #[test]
    fn malformed_rows_and_missing_files_are_named() {
        let fails = |questions: &str, dialogues: &str| {
            let files = [("qa/test_2.jsonl", questions.as_bytes()), ("dialogue/test.jsonl", dialogues.as_bytes())];
            import_files(&files, &config(MessageUsers::Question), 1).err().unwrap()
        };
        let error = fails(&QUESTIONS.replace("\"general_answer\": \"Food.\", ", ""), DIALOGUES);
        assert!(error.contains("test_2.jsonl:3: field `general_answer` is missing or empty"), "{error}");
        let error = fails(QUESTIONS, &DIALOGUES.replace("\"turn_id\": 1", "\"turn_id\": \"x\""));
        assert!(error.contains("test.jsonl:1: field `turn_id` is `x`; expected a whole number"), "{error}");
        let only = [("qa/test_2.jsonl", QUESTIONS.as_bytes())];
        let error = import_files(&only, &config(MessageUsers::Question), 1).err().unwrap();
        assert!(error.contains("expected files of `qa` and of `dialogue`"), "{error}");
    }

    #[test]
    fn a_folder_gives_the_files_of_the_published_evaluation() {
        for name in ["qa/test_2-00000-of-00001.parquet", "x/dialogue/test-00000-of-00001.parquet", "qa_test_2.jsonl"] {
            assert!(in_test(name), "{name}");
        }
        for name in
            ["qa/test_1-00000-of-00001.parquet", "qa/train.jsonl", "dialogue/train.jsonl", "evaluation/test.jsonl"]
        {
            assert!(!in_test(name), "{name}");
        }
    }
}
