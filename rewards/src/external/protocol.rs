//! Version 1 of the protocol: JSON lines, each an object.
//!
//! | from | line |
//! |---|---|
//! | Xplore | `{"xplore_reward": 1, "term": "mine", "params": {}}` |
//! | term | `{"xplore_reward": 1}` |
//! | Xplore | `{"id": 0, "step": 0, "term": "mine", "params": {}, "responses": [{"text": …, "summary": …, …}]}` |
//! | term | `{"id": 0, "scores": [0.5], "metrics": {"words": 31.5}}`, or `{"id": 0, "error": "…"}` |

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Failure;
use crate::batch::RewardResponse;

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// The metric that counts requests that were sent again.
pub const RETRIES: &str = "retries";
/// The metric that is the fraction of responses with the fallback score.
pub const FALLBACK: &str = "fallback";

/// Number of characters of a line that errors show.
const SHOWN: usize = 200;

/// The scores and metrics of one answer.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// One score per response, in order.
    pub scores: Vec<f64>,
    /// Metrics by key.
    pub metrics: BTreeMap<String, f64>,
}

#[derive(Serialize)]
struct RequestLine<'a> {
    id: u64,
    step: u64,
    term: &'a str,
    params: &'a Value,
    responses: Vec<ResponseFields<'a>>,
}

/// A response with what its text was split into.
#[derive(Serialize)]
struct ResponseFields<'a> {
    reasoning: Option<&'a str>,
    summary: Option<&'a str>,
    #[serde(flatten)]
    response: &'a RewardResponse<'a>,
}

#[derive(Deserialize)]
struct AnswerLine {
    id: Option<u64>,
    #[serde(default)]
    scores: Vec<Value>,
    #[serde(default)]
    metrics: BTreeMap<String, Value>,
    error: Option<String>,
}

/// Returns the line that begins a conversation.
pub fn handshake(term: &str, params: &Value) -> String {
    json!({ "xplore_reward": VERSION, "term": term, "params": params }).to_string()
}

/// Checks the answer to [`handshake`].
pub fn check_handshake(line: &str) -> Result<(), Failure> {
    let json: Value = parse(line)?;
    match &json["xplore_reward"] {
        Value::Null => Err(Failure::Lost(format!(
            "expected {{\"xplore_reward\": {VERSION}}} as the first line of its standard output, but got {}",
            shown(line)
        ))),
        version if *version == json!(VERSION) => Ok(()),
        version => Err(Failure::Refused(format!(
            "it speaks version {version} of the protocol, but this version of xplore speaks version {VERSION}; copy \
             examples/external_reward/xplore_reward.py of this version of xplore beside it"
        ))),
    }
}

/// Returns the line of a request. `responses` are whole groups.
pub fn request((term, params): (&str, &Value), id: u64, step: u64, responses: &[RewardResponse<'_>]) -> String {
    let line = RequestLine { id, step, term, params, responses: responses.iter().map(fields).collect() };
    serde_json::to_string(&line).expect("the keys of all objects are strings")
}

fn fields<'a>(response: &'a RewardResponse<'a>) -> ResponseFields<'a> {
    ResponseFields { reasoning: response.reasoning(), summary: response.summary(), response }
}

/// Reads the answer to the request `id` about `responses`.
pub fn answer(line: &str, id: u64, responses: &[RewardResponse<'_>]) -> Result<Answer, Failure> {
    let AnswerLine { id: of, scores, metrics, error } = parse(line)?;
    if of != Some(id) {
        let of = of.map_or("no id".into(), |of| format!("id {of}"));
        return Err(Failure::Lost(format!(
            "expected the answer to the request with id {id}, but got an answer with {of}: {}",
            shown(line)
        )));
    }
    if let Some(error) = error {
        return Err(Failure::Refused(format!("the term reported an error: {}", error.trim_end())));
    }
    if scores.len() != responses.len() {
        return Err(Failure::Refused(format!(
            "it returned {} scores for {} responses; it must return one for each, in order",
            scores.len(),
            responses.len()
        )));
    }
    let scores = scores.iter().zip(responses).enumerate().map(|(index, (score, response))| {
        let of = format!("scores[{index}] (user {})", response.uid);
        finite(&of, score)
    });
    let scores = scores.collect::<Result<_, Failure>>()?;
    let metrics = metrics.into_iter().map(|(key, value)| {
        let of = format!("metrics.{key}");
        match key.as_str() {
            RETRIES | FALLBACK => {
                Err(Failure::Refused(format!("{of} is a metric that xplore adds; choose another name")))
            }
            _ => Ok((key, finite(&of, &value)?)),
        }
    });
    Ok(Answer { scores, metrics: metrics.collect::<Result<_, Failure>>()? })
}

fn finite(of: &str, value: &Value) -> Result<f64, Failure> {
    let number = value.as_f64().filter(|number| number.is_finite());
    number.ok_or_else(|| Failure::Refused(format!("{of} is {}; expected a finite number", shown(&value.to_string()))))
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, Failure> {
    serde_json::from_str(line).map_err(|error| {
        // Python writes NaN and Infinity, which JSON does not have.
        let not_finite = line.trim_start().starts_with('{') && (line.contains("NaN") || line.contains("Infinity"));
        match not_finite {
            true => Failure::Refused(format!(
                "its answer contains NaN or Infinity, which JSON does not have; expected finite numbers: {}",
                shown(line)
            )),
            false => Failure::Lost(format!(
                "expected an answer as one line of JSON, but got {} ({error}); standard output is for answers only, so \
                 print to standard error",
                shown(line)
            )),
        }
    })
}

/// Returns the beginning of the first line of a text.
pub fn first_words(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        None if line.len() == text.trim_end().len() => line.into(),
        None => format!("{line}…"),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

/// Returns the beginning of a line, in quotes.
fn shown(line: &str) -> String {
    format!("`{}`", first_words(line.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::response;

    fn refusal(line: &str) -> String {
        let responses = [response(Some(0.5), 1), response(None, 1)];
        match answer(line, 3, &responses) {
            Err(Failure::Refused(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn loss(line: &str) -> String {
        let responses = [response(Some(0.5), 1), response(None, 1)];
        match answer(line, 3, &responses) {
            Err(Failure::Lost(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_request_holds_the_whole_batch_contract() {
        let responses = [response(Some(0.25), 40), response(None, 7)];
        let line = request(("mine", &json!({"words": 3})), 5, 9, &responses);
        assert!(!line.contains('\n'));
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["id"], &line["step"], &line["term"]), (&json!(5), &json!(9), &json!("mine")));
        assert_eq!(line["params"], json!({"words": 3}));
        let first = &line["responses"][0];
        assert_eq!(first["summary"], json!(responses[0].summary().unwrap()));
        assert_eq!(first["reasoning"], json!(responses[0].reasoning().unwrap()));
        assert_eq!((&first["p_chosen"], &first["well_formed"]), (&json!(0.25), &json!(true)));
        for key in ["text", "tokens", "token_limit", "stage", "group", "uid", "history", "past_summary", "targets"] {
            assert!(first.get(key).is_some(), "{key} is missing in {first}");
        }
        let second = &line["responses"][1];
        assert_eq!((&second["summary"], &second["p_chosen"]), (&Value::Null, &Value::Null));
        assert_eq!(second["well_formed"], json!(false));
    }

    #[test]
    fn scores_and_metrics_are_read() {
        let responses = [response(Some(0.5), 1), response(None, 1)];
        let read = answer(r#"{"id": 3, "scores": [0.1, -2], "metrics": {"words": 4.5}}"#, 3, &responses).unwrap();
        assert_eq!(read, Answer { scores: vec![0.1, -2.0], metrics: BTreeMap::from([("words".into(), 4.5)]) });
    }

    #[test]
    fn answers_that_cannot_be_used_are_refused() {
        assert!(refusal(r#"{"id": 3, "scores": [1]}"#).contains("1 scores for 2 responses"));
        assert!(refusal(r#"{"id": 3}"#).contains("0 scores for 2 responses"));
        assert!(refusal(r#"{"id": 3, "scores": [1, null]}"#).contains("scores[1] (user u) is `null`"));
        assert!(refusal(r#"{"id": 3, "scores": [1, NaN]}"#).contains("NaN or Infinity"));
        assert!(refusal(r#"{"id": 3, "scores": [1, -Infinity]}"#).contains("NaN or Infinity"));
        assert!(refusal(r#"{"id": 3, "scores": [1, 2], "metrics": {"a": "b"}}"#).contains("metrics.a is `\"b\"`"));
        assert!(refusal(r#"{"id": 3, "scores": [1, 2], "metrics": {"retries": 1}}"#).contains("another name"));
        assert!(refusal(r#"{"id": 3, "error": "no model\n"}"#).ends_with("the term reported an error: no model"));
    }

    #[test]
    fn anything_else_shows_that_the_worker_is_lost() {
        assert!(loss(r#"{"id": 2, "scores": [1, 2]}"#).contains("the request with id 3, but got an answer with id 2"));
        assert!(loss(r#"{"scores": [1, 2]}"#).contains("an answer with no id"));
        assert!(loss("loading NaN").contains("`loading NaN`"));
        assert!(loss("").contains("standard output is for answers only"));
        let long = loss(&"é".repeat(1000));
        assert!(long.contains(&format!("`{}…`", "é".repeat(SHOWN))), "{long}");
    }

    #[test]
    fn another_version_is_refused() {
        assert!(check_handshake(r#"{"xplore_reward": 1, "name": "mine"}"#).is_ok());
        let message = |line: &str| check_handshake(line).unwrap_err().message().to_owned();
        assert!(message(r#"{"xplore_reward": 2}"#).contains("version 2 of the protocol"));
        assert!(message(r#"{"scores": []}"#).contains("expected {\"xplore_reward\": 1}"));
        assert!(message("Loading checkpoint").contains("`Loading checkpoint`"));
    }
}
