//! PersonaMem-v2: questions with one fitting answer and several others, each with the conversation that shows the preference.

use serde_json::Value as Json;

use super::conversations::{Conversations, Question, target};
use super::rows::{self, READY, Row, UNUSED_BY_MESSAGES};
use super::{Collector, Format, ImportError, Source, folder};

/// The field of the conversation.
const SNIPPET: &str = "related_conversation_snippet";

/// The format `personamem_v2`.
pub(super) const FORMAT: Format = Format {
    name: "personamem_v2",
    about: "PersonaMem-v2: benchmark.csv (or JSON lines, Parquet) with a conversation snippet in each row",
    defaults: READY,
    unused: UNUSED_BY_MESSAGES,
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let mut conversations = Conversations::new(source.options);
    let mut number: u64 = 0;
    let wanted = |name: &str| matches!(name, "benchmark/text/benchmark.csv" | "text/benchmark.csv" | "benchmark.csv");
    let files = folder::files(source.paths, "benchmark.csv, in the folder benchmark/text", wanted)?;
    source.plan(&files, collector)?;
    for path in files {
        rows::for_each(&path, None, collector, |collector, row| {
            let id = number.to_string();
            number += 1;
            conversations.add(question(row, id, source.options.seed)?, collector)
        })?;
    }
    conversations.finish(collector)
}

fn question(row: &Row<'_>, id: String, seed: u64) -> Result<Question, ImportError> {
    let query = query(row)?;
    let chosen = row.required("correct_answer")?.into_owned();
    let others = row.texts("incorrect_answers")?;
    let target = target(query, chosen, others, &id, seed)
        .ok_or_else(|| row.bad("incorrect_answers", "is empty; expected at least one answer"))?;
    let snippet = row.value(SNIPPET)?.ok_or_else(|| row.bad(SNIPPET, "is missing or empty; expected messages"))?;
    let messages = row.messages(&snippet, SNIPPET)?;
    // Files that were made from the benchmark may lack the persona, which only users of several questions need.
    let user = row.text("persona_id")?.map_or_else(|| id.clone(), |persona| format!("persona_{persona}"));
    Ok(Question { id, user, messages, target })
}

/// Returns the question, which is a message {role, content} or a text.
fn query(row: &Row<'_>) -> Result<String, ImportError> {
    const FIELD: &str = "user_query";
    let message = match row.text_or_object(FIELD)? {
        Some(Json::Object(message)) => message,
        Some(Json::String(text)) => return Ok(text),
        _ => return Err(row.bad(FIELD, "is missing or empty; expected a message {role, content} or a text")),
    };
    row.required_in(&message, "content", FIELD).map(Into::into)
}

#[cfg(test)]
mod tests {
    use chat::{Interaction, Message};
    use configs::synth::{ImportConfig, MessageUsers};

    use crate::import::testing::{Imported, import_files};

    fn config(message_users: MessageUsers) -> ImportConfig {
        let format = "personamem_v2".into();
        ImportConfig { format, min_history: Some(1), test_share: 0.0, message_users, ..ImportConfig::default() }
    }

    /// A line of a CSV with every cell in quotation marks.
    fn line(cells: &[&str]) -> String {
        let cells: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
        cells.join(",") + "\r\n"
    }

    const HEADER: &str =
        "persona_id,user_query,correct_answer,incorrect_answers,related_conversation_snippet,pref_type\r\n";
    const TEA: &str =
        r#"[{'role': 'user', 'content': "I'd rather have tea"}, {'role': 'assistant', 'content': 'Say "when".\nOk?'}]"#;

    fn tea() -> Vec<Message> {
        vec![Message::user("I'd rather have tea"), Message::assistant("Say \"when\".\nOk?")]
    }

    fn csv() -> String {
        let system = r#"[{"role": "system", "content": "persona"}, {"role": "user", "content": "I run."}]"#;
        [
            format!("\u{feff}{HEADER}"),
            line(&[
                "7",
                "{'role': 'user', 'content': \"What's to drink?\"}",
                "Tea.",
                "['Beer, \"cold\".', \"It's wine.\"]",
                TEA,
                "",
            ]),
            line(&[
                "8",
                r#"{"role": "user", "content": "Any\nsport?"}"#,
                "Running,\ndaily.",
                r#"["Chess."]"#,
                system,
                "x",
            ]),
            line(&["7", "And to eat?", "Cake.", "('Soup.',)", TEA, "x"]),
            line(&["7", "And to eat?", "Cake.", "('Soup.',)", TEA, "x"]),
        ]
        .concat()
    }

    fn imported(text: &str, config: &ImportConfig, seed: u64) -> Result<Imported, String> {
        import_files(&[("benchmark.csv", text.as_bytes())], config, seed)
    }

    fn target(query: &str, chosen: &str, rejected: &str) -> Interaction {
        super::super::conversations::answer(query.into(), chosen.into(), rejected.into())
    }

    #[test]
    fn a_row_is_a_user_as_published() {
        let Imported { train, card, .. } = imported(&csv(), &config(MessageUsers::Question), 1).unwrap();
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        assert_eq!((&train[0].messages, &train[1].messages), (&tea(), &vec![Message::user("I run.")]));
        assert_eq!(card.dropped["system messages, which describe the persona"], 1);
        assert_eq!(train[1].targets, [target("Any\nsport?", "Running,\ndaily.", "Chess.")]);
        assert_eq!(train[2].targets, [target("And to eat?", "Cake.", "Soup.")]);
        assert_eq!(train[2].targets, train[3].targets);
        let drink = train[0].targets[0].clone();
        assert_eq!((drink.query.as_deref(), drink.chosen.as_str()), (Some("What's to drink?"), "Tea."));
    }

    #[test]
    fn the_rejected_answer_is_drawn_from_the_others_with_the_seed() {
        let drawn = |seed| {
            let train = imported(&csv(), &config(MessageUsers::Question), seed).unwrap().train;
            train[0].targets[0].rejected.clone().unwrap()
        };
        assert_eq!(drawn(3), drawn(3));
        // Each seed draws one of two, so all 40 agree once in 2^39 sets of seeds.
        let all: std::collections::BTreeSet<String> = (0..40).map(drawn).collect();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["Beer, \"cold\".", "It's wine."]);
    }

    #[test]
    fn a_persona_is_a_user_if_asked() {
        let Imported { train, card, .. } = imported(&csv(), &config(MessageUsers::User), 1).unwrap();
        assert_eq!(train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["persona_7", "persona_8"]);
        assert_eq!(train[0].messages, tea(), "an equal snippet is not repeated");
        let queries: Vec<&str> = train[0].targets.iter().filter_map(|target| target.query.as_deref()).collect();
        assert_eq!(queries, ["What's to drink?", "And to eat?"]);
        assert_eq!(card.dropped["repeated questions"], 1);
    }

    #[test]
    fn a_malformed_row_is_named_by_the_line_on_which_it_starts() {
        let cells = |others: &str, snippet: &str| line(&["9", "q", "a", others, snippet, ""]);
        for (row, words) in [
            (
                cells("['x', 'y", TEA),
                "field `incorrect_answers` is neither JSON nor a Python literal; expected a closing",
            ),
            (cells("[]", TEA), "field `incorrect_answers` is empty; expected at least one answer"),
            (cells("['x']", ""), "field `related_conversation_snippet` is missing or empty; expected messages"),
            (cells("['x']", "{}"), "field `related_conversation_snippet` is not a list of messages"),
            (
                cells("['x']", "[{'role': 'tool', 'content': 'c'}]"),
                "field `related_conversation_snippet[0]` is not a message",
            ),
            (line(&["9", "", "a", "['x']", TEA, ""]), "field `user_query` is missing or empty"),
            (line(&["9", "q", "a"]), "has 3 fields; expected 6, as in the first line"),
        ] {
            // The row before has a line end in a cell.
            let text = csv() + &row + &cells("['x']", TEA);
            let error = imported(&text, &config(MessageUsers::Question), 1).err().unwrap();
            assert!(error.contains("benchmark.csv:7: ") && error.contains(words), "{error}");
            let skip = ImportConfig { skip_bad: true, ..config(MessageUsers::Question) };
            let Imported { train, card, .. } = imported(&text, &skip, 1).unwrap();
            assert_eq!((train.len(), card.bad_rows.values().sum::<u64>()), (5, 1), "{words}");
        }
    }

    #[test]
    fn a_last_line_that_is_cut_off_is_malformed() {
        let text = csv();
        let error = imported(&text[..text.len() - 30], &config(MessageUsers::Question), 1).err().unwrap();
        assert!(error.contains("benchmark.csv:6: ") && error.contains("quotation mark"), "{error}");
    }
}
