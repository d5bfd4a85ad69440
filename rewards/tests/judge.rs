//! Judges as a training step uses them, with scripted models in place of real ones.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chat::completer::{CompleterError, Scripted};
use chat::{
    Completer, Completion, CompletionRequest, FinishReason, Interaction, PromptSet, Question, Role, TokenLogprob,
};
use configs::judge::{ItemOrders, JudgeMode};
use rewards::gate::judge_responses;
use rewards::{Judge, JudgeError, JudgeSettings, Response};
use tolerance::assert_within;

fn prompts() -> PromptSet {
    let judge = "{{ query }}|{{ preference }}|{{ item_a }}|{{ item_b }}".to_string();
    PromptSet::new("test", &BTreeMap::from([("judge.j2".into(), judge)])).unwrap()
}

fn question(preference: &str, chosen: &str, rejected: &str) -> Question {
    Question { query: None, preference: preference.into(), chosen: chosen.into(), rejected: rejected.into() }
}

/// Returns a first token that is A with probability `a`, and B otherwise.
fn letter(a: f64) -> TokenLogprob {
    let top = vec![("A".to_string(), a.ln() as f32), ("B".to_string(), (1.0 - a).ln() as f32)];
    TokenLogprob { text: if a >= 0.5 { "A" } else { "B" }.into(), logprob: a.max(1.0 - a).ln() as f32, top }
}

fn say(tokens: Vec<TokenLogprob>) -> Completion {
    Completion { text: String::new(), tokens, finish: FinishReason::Stop }
}

/// Prefers the item that occurs in the preference (probability 0.9). If neither or both occur, prefers the item shown first (0.7).
fn content_judge(request: &CompletionRequest) -> Completion {
    let parts: Vec<&str> = request.messages[0].content.split('|').collect();
    let a = match (parts[1].contains(parts[2]), parts[1].contains(parts[3])) {
        (true, false) => 0.9,
        (false, true) => 0.1,
        _ => 0.7,
    };
    say(vec![letter(a)])
}

fn forced(orders: ItemOrders) -> JudgeSettings {
    JudgeSettings::new(JudgeMode::Forced, orders, "{\"selection\": \"Item ")
}

fn one_order(seed: u64) -> JudgeSettings {
    JudgeSettings { seed, ..forced(ItemOrders::One) }
}

#[test]
fn both_orders_cancel_a_position_bias() {
    let prompts = prompts();
    let model = Scripted::new("biased", |_: &CompletionRequest| say(vec![letter(0.97)]));
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let verdict = &judge.score(&[question("", "x", "y")]).unwrap()[0];
    assert_within!(verdict.p_chosen - 0.5, 1e-6);
    assert!(!verdict.malformed);
    let by_order: Vec<_> = verdict.orders.iter().map(|o| (o.chosen_first, (o.p_chosen * 100.0).round())).collect();
    assert_eq!(by_order, [(true, 97.0), (false, 3.0)]);
}

#[test]
fn the_user_s_choice_is_found_in_either_order() {
    let prompts = prompts();
    let model = Scripted::new("content", content_judge);
    for settings in [forced(ItemOrders::Both), one_order(1), one_order(2)] {
        let judge = Judge::new(&model, &prompts, settings).unwrap();
        let questions: Vec<_> = (0..20).map(|i| question(&format!("jazz{i};"), &format!("jazz{i};"), "rock")).collect();
        for verdict in judge.score(&questions).unwrap() {
            assert_within!(verdict.p_chosen - 0.9, 1e-6, "{verdict:?}");
        }
    }
}

#[test]
fn one_order_is_a_fair_draw_that_depends_on_the_question_alone() {
    let prompts = prompts();
    let model = Scripted::new("content", content_judge);
    let judge = Judge::new(&model, &prompts, one_order(5)).unwrap();
    let questions: Vec<_> = (0..1000).map(|i| question(&i.to_string(), "x", "y")).collect();
    let first = |q: &[Question]| -> Vec<bool> {
        judge.score(q).unwrap().iter().map(|v| v.orders.iter().all(|o| o.chosen_first)).collect()
    };
    let orders = first(&questions);
    // Binomial(1000, ½) is outside of 420..=580 with probability below 1e-6.
    assert!((420..=580).contains(&orders.iter().filter(|&&f| f).count()));
    let mut reversed = questions.clone();
    reversed.reverse();
    let mut again = first(&reversed);
    again.reverse();
    assert_eq!(orders, again);
    assert_eq!(first(&questions[500..600]), orders[500..600]);
}

#[test]
fn a_forced_judge_is_asked_for_one_token_after_the_prefix() {
    let prompts = prompts();
    let model = Scripted::new("checks", |request: &CompletionRequest| {
        let last = request.messages.last().unwrap();
        assert_eq!((last.role, last.content.as_str()), (Role::Assistant, "{\"selection\": \"Item "));
        assert_eq!((request.sampling.max_tokens, request.sampling.temperature), (1, 0.0));
        assert_eq!((request.top_logprobs, request.thinking), (20, Some(false)));
        say(vec![letter(0.8)])
    });
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    assert_eq!(judge.score(&[question("", "x", "y")]).unwrap().len(), 1);
}

#[test]
fn a_judge_that_reasons_is_read_after_its_last_answer_prefix_or_made_to_answer() {
    let prompts = prompts();
    let word = |w: &str| TokenLogprob { text: w.into(), logprob: 0.0, top: vec![(w.into(), 0.0)] };
    let model = Scripted::new("reasons", move |request: &CompletionRequest| {
        let answer = content_judge(request).tokens.remove(0);
        if let [_, written] = &request.messages[..] {
            assert_eq!((written.role, written.content.as_str()), (Role::Assistant, "B likes A answer"));
            assert_eq!((request.sampling.max_tokens, request.top_logprobs), (1, 20));
            let silent = request.messages[0].content.starts_with("silent");
            return say(vec![if silent { word("neither") } else { answer }]);
        }
        assert_eq!((request.messages.len(), request.sampling.max_tokens), (1, 40));
        let mut tokens: Vec<_> = ["B", " likes", " A"].map(word).into();
        if request.messages[0].content.starts_with('|') {
            tokens.extend([word(" answer"), answer]);
        }
        Completion { text: "B likes A".into(), ..say(tokens) }
    });
    let settings = JudgeSettings::new(JudgeMode::Reasoned, ItemOrders::Both, "answer");
    let judge = Judge::new(&model, &prompts, JudgeSettings { max_new_tokens: 40, ..settings }).unwrap();
    let asked = |query: &str| Question { query: Some(query.into()), ..question("jazz", "jazz", "rock") };
    let verdicts = judge.score(&[question("jazz", "jazz", "rock"), asked("cut"), asked("silent")]).unwrap();
    for verdict in &verdicts[..2] {
        assert_within!(verdict.p_chosen - 0.9, 1e-6);
        assert!(!verdict.malformed);
    }
    assert!(verdicts[2].p_chosen == 0.5 && verdicts[2].malformed);
}

/// Counts the requests of each call.
struct Counting(RefCell<Vec<usize>>);

impl Completer for Counting {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        self.0.borrow_mut().push(requests.len());
        Ok(requests.iter().map(content_judge).collect())
    }

    fn name(&self) -> &str {
        "counting"
    }
}

#[test]
fn equal_questions_are_asked_once_and_all_in_one_call() {
    let prompts = prompts();
    let model = Counting(RefCell::default());
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let (x, y) = (question("a", "a", "b"), question("b", "a", "b"));
    let verdicts = judge.score(&[x.clone(), y.clone(), x.clone(), x, y]).unwrap();
    assert_eq!(*model.0.borrow(), [4]);
    assert!(verdicts[2].p_chosen > 0.8 && verdicts[3] == verdicts[0]);
    assert!(verdicts[4].p_chosen < 0.2 && verdicts[4] == verdicts[1]);
    assert!(judge.score(&[]).unwrap().is_empty());
    assert_eq!(model.0.borrow().len(), 1, "nothing to ask, so no call");
}

#[test]
fn responses_that_fail_the_gate_are_not_judged_and_earn_nothing() {
    let prompts = prompts();
    let model = Counting(RefCell::default());
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let target = Interaction { chosen: "jazz".into(), rejected: Some("rock".into()), ..Interaction::default() };
    let response = |text| Response { text, tokens: 10, target: &target };
    // The judge does not see the reasoning: the second response names the choice in its reasoning only.
    let responses = [
        response("<think>t</think>Likes jazz."),
        response("<think>jazz</think>Likes rock."),
        response("<think>t</think>"),
        response("Likes jazz."),
    ];
    let judged = judge_responses(&judge, &responses).unwrap();
    assert_eq!(*model.0.borrow(), [4], "two well-formed responses, two orders each");
    assert_eq!(judged.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false]);
    for (got, want) in judged.iter().flatten().zip([0.9, 0.1]) {
        assert_within!(got - want, 1e-6, "{judged:?}");
    }
    let one_sided = Interaction { chosen: "jazz".into(), ..Interaction::default() };
    let bad = [responses[0], Response { target: &one_sided, ..responses[0] }];
    let error = judge_responses(&judge, &bad).unwrap_err().to_string();
    assert_eq!(error, "target 1 has no `rejected` item; a judge compares two items: add one or remove the target");
}

#[test]
fn settings_that_cannot_work_and_broken_models_are_errors() {
    let prompts = prompts();
    let model = Counting(RefCell::default());
    let reasoned = |prefix| JudgeSettings::new(JudgeMode::Reasoned, ItemOrders::Both, prefix);
    let mut same = forced(ItemOrders::Both);
    same.choices = ["A".into(), "A".into()];
    let mut spaced = forced(ItemOrders::Both);
    spaced.choices = ["A".into(), " B".into()];
    let no_prefix = reasoned(" ");
    let no_tokens = JudgeSettings { max_new_tokens: 0, ..reasoned("answer") };
    for settings in [same, spaced, no_prefix, no_tokens] {
        assert!(matches!(Judge::new(&model, &prompts, settings), Err(JudgeError::Settings(_))));
    }

    struct Broken(bool);
    impl Completer for Broken {
        fn complete(&self, _: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
            if self.0 { Err(CompleterError::Model("out of memory".into())) } else { Ok(vec![]) }
        }
        fn name(&self) -> &str {
            "broken"
        }
    }
    let message = |broken: Broken| {
        Judge::new(&broken, &prompts, forced(ItemOrders::Both))
            .unwrap()
            .score(&[question("", "x", "y")])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(message(Broken(true)), "judge `broken`: out of memory");
    assert!(message(Broken(false)).contains("answered 0 of 2 requests"));
}
