//! Questions of which single ones may fail, and answers that are read as text.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use chat::completer::{CompleterError, Failures, JournalStats, Usage};
use chat::{Completer, Completion, CompletionRequest, FinishReason, Message, Question, Role, reasoning};
use serde_json::Value;

use super::{Judge, JudgeError, JudgeSettings, OrderVerdict, Verdict};

impl Judge<'_> {
    /// Returns one verdict per question, in order, as [`Self::score`] does. With [`Failures::Keep`], a question whose request fails does
    /// not keep the others from being answered: its place has the message.
    ///
    /// # Errors
    /// Returns a [`JudgeError`] if a prompt cannot be rendered, or the model fails as a whole; with [`Failures::Stop`], also if it fails
    /// on a question.
    pub fn score_each(
        &self,
        questions: &[Question],
        failures: Failures,
    ) -> Result<Vec<Result<Verdict, String>>, JudgeError> {
        if failures == Failures::Stop {
            return Ok(self.score(questions)?.into_iter().map(Ok).collect());
        }
        let tolerant = Tolerant { model: self.model, failures: RefCell::default() };
        let judge = Judge { model: &tolerant, prompts: self.prompts, settings: self.settings.clone() };
        let verdicts = judge.score(questions)?;
        let failures = tolerant.failures.borrow();
        if failures.is_empty() {
            return Ok(verdicts.into_iter().map(Ok).collect());
        }
        let mut found = Vec::with_capacity(verdicts.len());
        for (question, verdict) in questions.iter().zip(verdicts) {
            let mut failure = None;
            for order in &verdict.orders {
                let asked = conversation(&self.messages(question, order.chosen_first)?);
                failure = failure.or(failures.get(&asked).cloned());
            }
            found.push(failure.map_or(Ok(verdict), Err));
        }
        Ok(found)
    }

    /// Returns one verdict per question, in order, from an answer that the judge writes and that is read as text, as in the published
    /// synthesis: 1 if it selects the user's choice, 0 if it selects the other item, and [`JudgeSettings::no_answer`] if it selects
    /// neither. The answer is sampled as in [`configs::judge::JudgeMode::Sampled`]. Equal questions are asked once. A question whose
    /// request fails has the message.
    ///
    /// An answer selects an item if it is a JSON object whose field names it, or names it and says nothing else. Field and name are
    /// those of [`JudgeSettings::answer_prefix`] with the letter: `selection` and `Item A` for `{"selection": "Item `. If the prefix
    /// has no quotation mark, other text may precede it.
    ///
    /// # Errors
    /// Same as [`Self::score_each`].
    pub fn choose_each(
        &self,
        questions: &[Question],
        failures: Failures,
    ) -> Result<Vec<Result<Verdict, String>>, JudgeError> {
        let (mut places, mut distinct) = (HashMap::new(), Vec::new());
        for question in questions {
            places.entry(question).or_insert_with(|| {
                distinct.push(question);
                distinct.len() - 1
            });
        }
        let mut asked = Vec::new();
        for (index, question) in distinct.iter().enumerate() {
            asked.extend(self.asking().orders(question).iter().map(|&chosen_first| (index, chosen_first)));
        }
        let asking = self.asking();
        let request = |&(index, chosen_first): &(usize, bool)| asking.sampled_request(distinct[index], chosen_first, 0);
        let requests = asked.iter().map(request).collect::<Result<Vec<_>, JudgeError>>()?;
        let answers =
            self.answered(&requests, |requests| self.model.complete_with(requests, failures, &mut |_, _| Ok(())))?;
        let mut found: Vec<Result<Vec<OrderVerdict>, String>> = distinct.iter().map(|_| Ok(Vec::new())).collect();
        for ((index, chosen_first), answer) in asked.into_iter().zip(answers) {
            let place = &mut found[index];
            match answer {
                Err(message) => *place = Err(message),
                Ok(completion) => {
                    let selected = selected(&completion.text, &self.settings);
                    let p_chosen = match selected {
                        Some(item) => f64::from(u8::from((item == 0) == chosen_first)),
                        None => self.settings.no_answer,
                    };
                    if let Ok(orders) = place {
                        orders.push(OrderVerdict { chosen_first, p_chosen, malformed: selected.is_none() });
                    }
                }
            }
        }
        let verdicts: Vec<Result<Verdict, String>> =
            found.into_iter().map(|orders| orders.map(Verdict::over)).collect();
        Ok(questions.iter().map(|question| verdicts[places[question]].clone()).collect())
    }
}

/// Returns the index of the item that a written answer selects.
fn selected(text: &str, settings: &JudgeSettings) -> Option<usize> {
    let (prefix, letters) = settings.answers();
    let word = prefix.rsplit('"').next().unwrap_or_default();
    let names = letters.map(|letter| format!("{word}{letter}"));
    let text = reasoning::summary_leniently(text);
    if let Ok(Value::Object(fields)) = serde_json::from_str(text) {
        // The last name before the answer, as in `{"selection": "Item `.
        let field = prefix.rsplit('"').nth(2).unwrap_or("selection");
        let said = fields.get(field)?.as_str()?;
        return names.iter().position(|name| name == said);
    }
    let whole = word.is_empty() || prefix.contains('"');
    names.iter().position(|name| if whole { text == name } else { text.ends_with(name.as_str()) })
}

/// A model of which a request that fails has an empty answer, and its failures.
struct Tolerant<'a> {
    model: &'a dyn Completer,
    /// The messages, by conversation.
    failures: RefCell<HashMap<String, String>>,
}

impl Completer for Tolerant<'_> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let mut failures = self.failures.borrow_mut();
        // A question that failed once is not asked again, as a judge that reasons is without an answer.
        let failed = |request: &CompletionRequest| {
            !failures.is_empty() && failures.contains_key(&conversation(&request.messages))
        };
        let failed: Vec<bool> = requests.iter().map(failed).collect();
        let sent: Cow<'_, [CompletionRequest]> = match failed.contains(&true) {
            true => requests.iter().zip(&failed).filter(|(_, failed)| !**failed).map(|(r, _)| r.clone()).collect(),
            false => requests.into(),
        };
        let answers = if sent.is_empty() { Vec::new() } else { self.model.complete_each(&sent)? };
        let mut answers = answers.into_iter();
        let none = || Completion { text: String::new(), tokens: Vec::new(), finish: FinishReason::Stop };
        let answered = |(request, failed): (&CompletionRequest, bool)| {
            if failed {
                return Some(none());
            }
            answers.next().map(|answer| {
                answer.unwrap_or_else(|message| {
                    failures.insert(conversation(&request.messages), message);
                    none()
                })
            })
        };
        Ok(requests.iter().zip(failed).map_while(answered).collect())
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    fn usage(&self) -> Usage {
        self.model.usage()
    }

    fn journal_stats(&self) -> JournalStats {
        self.model.journal_stats()
    }
}

/// Returns the conversation without what the judge itself wrote, or is made to have written.
fn conversation(messages: &[Message]) -> String {
    let asked = match messages {
        [asked @ .., last] if last.role == Role::Assistant => asked,
        all => all,
    };
    serde_json::to_string(asked).expect("texts always serialize")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use chat::{PromptSet, TokenLogprob};
    use configs::judge::{ItemOrders, JudgeMode};

    use super::*;

    const PUBLISHED: &str = "{\"selection\": \"Item ";

    fn prompts() -> PromptSet {
        let judge = "{{ preference }}|{{ item_a }}|{{ item_b }}".to_owned();
        PromptSet::new("test", &BTreeMap::from([("judge.j2".into(), judge)])).unwrap()
    }

    fn questions(count: usize) -> Vec<Question> {
        let question = |i| Question {
            query: None,
            preference: format!("likes {i}"),
            chosen: format!("good {i}"),
            rejected: format!("bad {i}"),
        };
        (0..count).map(question).collect()
    }

    /// A judge that prefers the good item, writes the answer in the given form, and fails on conversations about `likes 2`.
    struct Model {
        answer: fn(&str) -> String,
        /// The requests that it answered, and those that it failed on.
        asked: Cell<(usize, usize)>,
    }

    impl Model {
        fn new(answer: fn(&str) -> String) -> Self {
            Self { answer, asked: Cell::new((0, 0)) }
        }
    }

    impl Completer for Model {
        fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
            let (answered, failed) = self.asked.get();
            if let Some(index) = requests.iter().position(|r| r.messages[0].content.starts_with("likes 2|")) {
                self.asked.set((answered, failed + 1));
                return Err(CompleterError::Request { index, message: "cut off".into() });
            }
            self.asked.set((answered + requests.len(), failed));
            let said = |request: &CompletionRequest| {
                let first = request.messages[0].content.split('|').nth(1).unwrap();
                let letter = if first.starts_with("good") { "A" } else { "B" };
                let top = vec![(letter.to_owned(), 0.9_f32.ln()), ("C".to_owned(), 0.1_f32.ln())];
                let token = TokenLogprob { text: letter.into(), logprob: 0.9_f32.ln(), top };
                Completion { text: (self.answer)(letter), tokens: vec![token], finish: FinishReason::Stop }
            };
            Ok(requests.iter().map(said).collect())
        }

        fn name(&self) -> &str {
            "model"
        }
    }

    #[test]
    fn a_written_answer_selects_by_json_or_by_the_name_alone() {
        let select =
            |text: &str, prefix: &str| selected(text, &JudgeSettings::new(JudgeMode::Sampled, ItemOrders::One, prefix));
        for (text, item) in [
            ("{\"selection\": \"Item A\"}", Some(0)),
            (" {\"reason\": \"Item A\", \"selection\": \"Item B\"}\n", Some(1)),
            ("Item B", Some(1)),
            ("<think>Item A</think>Item B", Some(1)),
            ("B", None),
            ("I choose Item A", None),
            ("{\"selection\": \"A\"}", None),
            ("{\"choice\": \"Item A\"}", None),
            ("{\"selection\": \"Item A\"", None),
            ("{\"selection\": 1}", None),
            ("", None),
        ] {
            assert_eq!(select(text, PUBLISHED), item, "{text}");
        }
        let other = "{\"why\": \"\", \"answer\": \"Option ";
        assert_eq!(select("{\"answer\": \"Option B\", \"selection\": \"Option A\"}", other), Some(1));
        assert_eq!(select("{\"selection\": \"Option A\"}", other), None);
        assert_eq!(select("for space against jazz answer B", "answer"), Some(1));
        assert_eq!(select("answer A or answer C", "answer"), None);
        assert_eq!((select("A", ""), select("USA", "")), (Some(0), None));
    }

    #[test]
    fn an_answer_that_cannot_be_read_has_the_value_of_a_missing_one() {
        let prompts = prompts();
        let of = |answer: fn(&str) -> String, no_answer: f64, orders: ItemOrders| -> Vec<f64> {
            let model = Model::new(answer);
            let settings = JudgeSettings { no_answer, ..JudgeSettings::new(JudgeMode::Sampled, orders, PUBLISHED) };
            let judge = Judge::new(&model, &prompts, settings).unwrap();
            judge
                .choose_each(&questions(2), Failures::Keep)
                .unwrap()
                .into_iter()
                .map(|verdict| verdict.unwrap().p_chosen)
                .collect()
        };
        let json: fn(&str) -> String = |letter| format!("{{\"selection\": \"Item {letter}\"}}");
        let always_a: fn(&str) -> String = |_| "Item A".into();
        let prose: fn(&str) -> String = |letter| format!("It is {letter}.");
        for orders in [ItemOrders::One, ItemOrders::Both] {
            assert_eq!(of(json, 0.0, orders), [1.0, 1.0]);
            assert_eq!(of(prose, 0.0, orders), [0.0, 0.0]);
            assert_eq!(of(prose, 0.5, orders), [0.5, 0.5]);
        }
        assert_eq!(of(always_a, 0.0, ItemOrders::Both), [0.5, 0.5]);
    }

    #[test]
    fn equal_questions_are_asked_once() {
        let prompts = prompts();
        let twice = [questions(3), questions(3)].concat();
        for (orders, of_question) in [(ItemOrders::One, 1), (ItemOrders::Both, 2)] {
            let model = Model::new(|letter| format!("Item {letter}"));
            let judge =
                Judge::new(&model, &prompts, JudgeSettings::new(JudgeMode::Sampled, orders, PUBLISHED)).unwrap();
            let found = judge.choose_each(&twice, Failures::Keep).unwrap();
            assert_eq!(found[..3], found[3..]);
            assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true, false]);
            // Each order of the question that fails fails once.
            assert_eq!(model.asked.get(), (2 * of_question, of_question));
        }
    }

    #[test]
    fn a_question_that_fails_is_not_asked_for_its_answer() {
        let prompts = prompts();
        let model = Model::new(|letter| format!("I take {letter}"));
        let settings = JudgeSettings::new(JudgeMode::Reasoned, ItemOrders::One, PUBLISHED);
        let judge = Judge::new(&model, &prompts, settings).unwrap();
        let found = judge.score_each(&questions(4), Failures::Keep).unwrap();
        assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
        // The others reason without the published form, and are asked for their answer after the reasoning.
        assert_eq!(model.asked.get(), (6, 1));
        // Nothing is sent if all have failed.
        let model = Model::new(|letter| format!("I take {letter}"));
        let judge = Judge { model: &model, ..judge };
        assert_eq!(judge.score_each(&questions(3)[2..], Failures::Keep).unwrap()[0].as_ref().unwrap_err(), "cut off");
        assert_eq!(model.asked.get(), (0, 1));
    }

    #[test]
    fn a_question_that_fails_leaves_the_others() {
        let prompts = prompts();
        let model = Model::new(|letter| format!("Item {letter}"));
        for mode in [JudgeMode::Forced, JudgeMode::Reasoned, JudgeMode::Sampled] {
            for orders in [ItemOrders::One, ItemOrders::Both] {
                let judge = Judge::new(&model, &prompts, JudgeSettings::new(mode, orders, PUBLISHED)).unwrap();
                assert!(judge.score(&questions(4)).is_err());
                assert!(judge.score_each(&questions(4), Failures::Stop).is_err());
                assert!(judge.choose_each(&questions(4), Failures::Stop).is_err());
                for found in [
                    judge.score_each(&questions(4), Failures::Keep).unwrap(),
                    judge.choose_each(&questions(4), Failures::Keep).unwrap(),
                ] {
                    let right: Vec<bool> = found.iter().map(Result::is_ok).collect();
                    assert_eq!(right, [true, true, false, true], "{mode:?}, {orders:?}");
                    assert_eq!(found[2].as_ref().unwrap_err(), "cut off");
                }
                let whole = judge.score(&questions(2)).unwrap();
                let each = judge.score_each(&questions(2), Failures::Keep).unwrap();
                assert_eq!(each.into_iter().map(Result::unwrap).collect::<Vec<_>>(), whole);
                assert!(
                    judge.choose_each(&[], Failures::Keep).unwrap().is_empty()
                        && judge.score_each(&[], Failures::Keep).unwrap().is_empty()
                );
            }
        }
    }
}
