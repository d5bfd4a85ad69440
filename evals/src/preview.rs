//! What each round of an evaluation reads about a user, computed without a model by the functions that [`crate::evaluate`] uses.

use chat::records::RowDefect;
use chat::{HistoryItems, Interaction, PromptSet};
use serde::Serialize;

use crate::fit::Fitted;
use crate::judging::fitted_history;
use crate::summarize::fitted;
use crate::{EvalError, EvalUser, HistorySplit, NamedJudge, PromptLimit, Setting, TargetKind};

/// What one round reads. Ranges are of indices into the history, whose items are interactions or messages, as slices: from the first
/// to before the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoundPreview {
    /// The part of the history that the setting assigns to the round.
    pub part: [usize; 2],
    /// What the prompt contains; `None` if not even the last interaction or message fits, which ends an evaluation with an error.
    pub read: Option<[usize; 2]>,
    /// The number of oldest interactions or messages of the part that are left out.
    pub dropped: usize,
    /// The length of the prompt, in the unit of the limit; `None` if nothing fits.
    pub length: Option<usize>,
}

/// A held-out choice, and what a judge reads about it in the setting `direct`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetPreview {
    /// The kind of the target.
    pub kind: TargetKind,
    /// The query, if there is one.
    pub query: Option<String>,
    /// The item that the user chose.
    pub chosen: String,
    /// The item that the user rejected.
    pub rejected: Option<String>,
    /// The history in the judge's prompt, in the setting `direct`.
    pub direct: RoundPreview,
}

/// What an evaluation reads about one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UserPreview {
    /// The id of the user.
    pub uid: String,
    /// The rounds of the setting `full`.
    pub full: Vec<RoundPreview>,
    /// The rounds of the setting `streaming`.
    pub streaming: Vec<RoundPreview>,
    /// The targets.
    pub targets: Vec<TargetPreview>,
}

/// Returns what an evaluation in all settings reads about `user`. The second round of `streaming` has the past summary `past`;
/// `limit` bounds the prompts of summaries, and that of `judge` the prompts of the setting `direct`.
///
/// # Errors
/// Returns [`EvalError::Prompt`] or [`EvalError::Judge`] if a prompt does not render, and [`EvalError::User`] for a history that is
/// too short for the split.
pub fn preview(
    user: &EvalUser,
    past: Option<&str>,
    split: HistorySplit,
    prompts: &PromptSet,
    limit: PromptLimit<'_>,
    judge: &NamedJudge<'_>,
) -> Result<UserPreview, EvalError> {
    if let Some(RowDefect { field, message }) = split.defect(user.items()) {
        return Err(EvalError::User { uid: user.uid.clone(), field, message });
    }
    let rounds = |setting: Setting| -> Result<Vec<RoundPreview>, EvalError> {
        let mut start = 0;
        let mut found = Vec::new();
        for (round, part) in split.rounds(setting, user.items()).into_iter().enumerate() {
            let kept = fitted(prompts, past.filter(|_| round > 0), part, Some(limit))?;
            found.push(round_of(start, part, kept, limit));
            start += part.len();
        }
        Ok(found)
    };
    let judge_limit = judge.limit.unwrap_or(PromptLimit { tokens: usize::MAX, ..limit });
    let target = |(kind, target): (TargetKind, &Interaction)| -> Result<TargetPreview, EvalError> {
        let kept = fitted_history(target, user.items(), judge, prompts)?;
        Ok(TargetPreview {
            kind,
            query: target.query.clone(),
            chosen: target.chosen.clone(),
            rejected: target.rejected.clone(),
            direct: round_of(0, user.items(), kept, judge_limit),
        })
    };
    let targets = TargetKind::ALL.into_iter().flat_map(|kind| user.targets_of(kind).iter().map(move |t| (kind, t)));
    Ok(UserPreview {
        uid: user.uid.clone(),
        full: rounds(Setting::Full)?,
        streaming: rounds(Setting::Streaming)?,
        targets: targets.map(target).collect::<Result<_, _>>()?,
    })
}

/// Returns the preview of a round whose part begins at index `start` of the history.
fn round_of(start: usize, part: HistoryItems<'_>, kept: Option<Fitted<'_>>, limit: PromptLimit<'_>) -> RoundPreview {
    let end = start + part.len();
    let read = kept.as_ref().map(|fitted| [end - fitted.kept.len(), end]);
    RoundPreview {
        part: [start, end],
        read,
        dropped: read.map_or(part.len(), |[from, _]| from - start),
        length: kept.map(|fitted| (limit.count)(&fitted.messages)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chat::completer::Scripted;
    use chat::{Completion, CompletionRequest, FinishReason, Message};
    use configs::judge::{ItemOrders, JudgeMode};
    use rewards::{Judge, JudgeSettings};

    use super::*;

    /// Returns the preview of a user with `n` interactions, if prompts may have `tokens` characters. An interaction is one
    /// character, and so is every other part of a prompt.
    fn of(n: usize, split: HistorySplit, tokens: usize) -> Result<UserPreview, EvalError> {
        let interaction = |_| Interaction { chosen: "x".into(), rejected: Some("y".into()), ..Interaction::default() };
        let history: Vec<_> = (0..n).map(interaction).collect();
        let user = EvalUser { uid: "u".into(), targets: vec![interaction(n)], history, ..EvalUser::default() };
        let history_template = "{% for i in interactions %}{{ i.chosen }}{% endfor %}";
        let sources = BTreeMap::from([
            ("summarize.j2".to_owned(), format!("{{{{ past }}}}{history_template}")),
            ("history.j2".to_owned(), history_template.to_owned()),
            ("judge.j2".to_owned(), "{{ preference }}{{ item_a }}{{ item_b }}".to_owned()),
        ]);
        let prompts = PromptSet::new("test", &sources).unwrap();
        let model = Scripted::new("judge", |_: &CompletionRequest| Completion {
            text: String::new(),
            tokens: Vec::new(),
            finish: FinishReason::Stop,
        });
        let settings = JudgeSettings::new(JudgeMode::Sampled, ItemOrders::One, "");
        let judge = Judge::new(&model, &prompts, settings).unwrap();
        let length = |m: &Message| m.content.replace("Not Provided.", "n").len();
        let count = |messages: &[Message]| messages.iter().map(length).sum::<usize>();
        let limit = PromptLimit { tokens, count: &count };
        let judge = NamedJudge { name: "judge", judge: &judge, limit: Some(limit) };
        preview(&user, Some("p"), split, &prompts, limit, &judge)
    }

    fn round(part: [usize; 2], read: [usize; 2], length: usize) -> RoundPreview {
        RoundPreview { part, read: Some(read), dropped: read[0] - part[0], length: Some(length) }
    }

    #[test]
    fn rounds_and_truncation_as_worked_by_hand() {
        // Nine interactions and one character of past summary, at most 6: 9 → 4 of full; 4 and 5 + 1 of streaming fit. The judge's
        // prompt has two items beside the history: 9 + 2 → 4 + 2.
        let found = of(9, HistorySplit::Halves, 6).unwrap();
        assert_eq!(found.full, [round([0, 9], [5, 9], 5)]);
        assert_eq!(found.streaming, [round([0, 4], [0, 4], 5), round([4, 9], [4, 9], 6)]);
        assert_eq!(found.targets[0].direct, round([0, 9], [5, 9], 6));
        // In thirds, the last third is not read, except by the judge in `direct`.
        let found = of(10, HistorySplit::Thirds, 100).unwrap();
        assert_eq!(found.full, [round([0, 6], [0, 6], 7)]);
        assert_eq!(found.streaming, [round([0, 3], [0, 3], 4), round([3, 6], [3, 6], 4)]);
        assert_eq!(found.targets[0].direct, round([0, 10], [0, 10], 12));
    }

    #[test]
    fn what_does_not_fit_at_all_is_marked_and_what_is_too_short_refused() {
        let found = of(4, HistorySplit::Halves, 1).unwrap();
        assert_eq!(found.full, [RoundPreview { part: [0, 4], read: None, dropped: 4, length: None }]);
        let error = of(2, HistorySplit::Thirds, 9).unwrap_err().to_string();
        assert!(error.contains("`history` has 2 interactions") && error.contains("at least 3"), "{error}");
    }
}
