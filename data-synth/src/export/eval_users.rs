//! The users of the test set as an evaluation reads them: a history, and the choices after it.

use std::path::Path;

use chat::jsonl;
use chat::{History, Interaction, Message};
use files::Replacement;
use serde::Serialize;

use super::rows::remove_stale;
use super::{ExportError, write_error};

/// A row of `eval/users.jsonl`, with the fields that `xplore eval` reads.
#[derive(Serialize)]
struct EvalRow<'a> {
    uid: &'a str,
    history: &'a [Interaction],
    #[serde(skip_serializing_if = "no_messages")]
    messages: &'a [Message],
    targets: &'a [Interaction],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    transfer: Vec<&'a Interaction>,
}

/// Tells whether a history has no messages.
fn no_messages(messages: &[Message]) -> bool {
    messages.is_empty()
}

/// Returns a user as a row: the last `count` choices are the targets. `None` if one of them has no second item, or nothing precedes
/// them.
fn row(user: &History, count: usize) -> Option<EvalRow<'_>> {
    let own = !user.targets.is_empty();
    let choices = if own { &user.targets } else { &user.interactions };
    let start = choices.len().checked_sub(count).or(own.then_some(0))?;
    let (before, targets) = choices.split_at(start);
    let history = if own { &user.interactions[..] } else { before };
    let judged = |choice: &&Interaction| choice.rejected.is_some();
    let transfer = user.transfer.iter().filter(judged).collect();
    let has_history = !history.is_empty() || !user.messages.is_empty();
    let usable = has_history && !targets.is_empty() && targets.iter().all(|choice| choice.rejected.is_some());
    usable.then_some(EvalRow { uid: &user.uid, history, messages: &user.messages, targets, transfer })
}

/// Writes the users of `test` with `count` targets each; returns the numbers of users written and left out. Without users, there is
/// no file.
pub(super) fn write(test: &Path, out: &Path, count: usize) -> Result<(usize, usize), ExportError> {
    let failed = |source| write_error(out, source);
    let users = jsonl::stream::<History>(test)?;
    let (mut file, mut written, mut left_out) = (Replacement::create(out).map_err(failed)?, 0, 0);
    for user in users {
        let (_, user) = user?;
        match row(&user, count) {
            Some(row) => {
                jsonl::write_row(&mut file, &row).map_err(failed)?;
                written += 1;
            }
            None => left_out += 1,
        }
    }
    match written {
        0 => remove_stale(out)?,
        _ => file.finish().map_err(failed)?,
    }
    Ok((written, left_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(chosen: &str, rejected: Option<&str>) -> Interaction {
        Interaction { chosen: chosen.into(), rejected: rejected.map(Into::into), ..Interaction::default() }
    }

    fn user(choices: &[(&str, Option<&str>)]) -> History {
        let interactions = choices.iter().map(|(chosen, rejected)| choice(chosen, *rejected)).collect();
        History { uid: "u".into(), interactions, ..History::default() }
    }

    fn texts(choices: &[Interaction]) -> Vec<&str> {
        choices.iter().map(|choice| choice.chosen.as_str()).collect()
    }

    #[test]
    fn the_last_choices_are_the_targets() {
        let user = user(&[("a", None), ("b", Some("x")), ("c", Some("y"))]);
        let found = row(&user, 2).unwrap();
        assert_eq!((texts(found.history), texts(found.targets)), (vec!["a"], vec!["b", "c"]));
        assert!(row(&user, 3).is_none(), "nothing precedes the targets");
        assert!(row(&user, 4).is_none(), "there are fewer choices");
    }

    #[test]
    fn targets_need_a_second_item() {
        let user = user(&[("a", Some("x")), ("b", None), ("c", Some("y"))]);
        assert!(row(&user, 1).is_some() && row(&user, 2).is_none());
    }

    #[test]
    fn targets_of_their_own_leave_the_history_whole() {
        let own = vec![choice("later", Some("x")), choice("last", Some("y"))];
        let user = History { targets: own, transfer: vec![choice("t", None)], ..user(&[("a", None), ("b", None)]) };
        let found = row(&user, 1).unwrap();
        assert_eq!((texts(found.history), texts(found.targets)), (vec!["a", "b"], vec!["last"]));
        assert_eq!((row(&user, 9).unwrap().targets.len(), found.transfer.len()), (2, 0));
        let messages = History { interactions: Vec::new(), messages: vec![Message::user("hi")], ..user };
        assert!(serde_json::to_string(&row(&messages, 1).unwrap()).unwrap().contains("\"messages\":[{"));
    }
}
