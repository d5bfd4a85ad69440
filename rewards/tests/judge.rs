//! Judges as a training step uses them, with scripted models in place of real ones.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chat::completer::{CompleterError, Scripted};
use chat::{
    Completer, Completion, CompletionRequest, FinishReason, Interaction, Message, PromptSet, Question, Role,
    TokenLogprob,
};
use configs::judge::{ItemOrders, JudgeMode};
use configs::rl::reward::FormatGate;
use rewards::gate::{split, target_requests};
use rewards::{Judge, JudgeError, JudgeQuery, JudgeSettings};
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
        // The space belongs to the letter, of which it is a part in most vocabularies.
        assert_eq!((last.role, last.content.as_str()), (Role::Assistant, "{\"selection\": \"Item"));
        assert_eq!(request.choices, Some([" A".to_owned(), " B".to_owned()]));
        assert_eq!((request.sampling.max_tokens, request.sampling.temperature), (1, 0.0));
        assert_eq!((request.top_logprobs, request.thinking), (20, Some(false)));
        say(vec![letter(0.8)])
    });
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    assert_eq!(judge.score(&[question("", "x", "y")]).unwrap().len(), 1);
}

#[test]
fn the_space_between_prefix_and_letter_is_the_prefix_s_or_the_one_that_ends_a_word() {
    let prompts = prompts();
    for (prefix, content, choices) in [
        ("answer", Some("answer"), [" A", " B"]),
        ("answer: ", Some("answer:"), [" A", " B"]),
        ("answer:", Some("answer:"), ["A", "B"]),
        ("Item \n", Some("Item"), [" \nA", " \nB"]),
        ("", None, ["A", "B"]),
        (" ", None, [" A", " B"]),
    ] {
        let model = Scripted::new("checks", |request: &CompletionRequest| {
            let last = request.messages.last().unwrap();
            assert_eq!((last.role == Role::Assistant).then_some(last.content.as_str()), content, "{prefix:?}");
            assert_eq!(request.choices, Some(choices.map(str::to_owned)), "{prefix:?}");
            say(vec![letter(0.8)])
        });
        let settings = JudgeSettings::new(JudgeMode::Forced, ItemOrders::One, prefix);
        Judge::new(&model, &prompts, settings).unwrap().score(&[question("", "x", "y")]).unwrap();
    }
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
            assert_eq!(request.choices, Some([" A".to_owned(), " B".to_owned()]));
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
    let settings = JudgeSettings { max_new_tokens: 40, no_answer: 0.25, ..settings };
    let judge = Judge::new(&model, &prompts, settings).unwrap();
    let asked = |query: &str| Question { query: Some(query.into()), ..question("jazz", "jazz", "rock") };
    let verdicts = judge.score(&[question("jazz", "jazz", "rock"), asked("cut"), asked("silent")]).unwrap();
    for verdict in &verdicts[..2] {
        assert_within!(verdict.p_chosen - 0.9, 1e-6);
        assert!(!verdict.malformed);
    }
    assert!(verdicts[2].p_chosen == 0.25 && verdicts[2].malformed);
}

/// Returns the settings of the released reward.
fn sampled(orders: ItemOrders) -> JudgeSettings {
    let settings = JudgeSettings::new(JudgeMode::Sampled, orders, "");
    JudgeSettings { max_new_tokens: 16, temperature: 0.6, top_k: 20, top_p: 0.95, no_answer: 0.0, ..settings }
}

#[test]
fn a_sampled_answer_scores_by_the_letter_that_was_generated() {
    let prompts = prompts();
    let token = |text: &str, p: f64| TokenLogprob { text: text.into(), logprob: p.ln() as f32, top: vec![] };
    // The query tells what the judge generates, in both orders of the items.
    let model = Scripted::new("samples", |request: &CompletionRequest| {
        let sampling = &request.sampling;
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens), (0.6, 20, 0.95, 16));
        assert_eq!((request.messages.len(), request.top_logprobs, request.thinking), (1, 1, Some(false)));
        assert_eq!(request.choices, None);
        let item = [token("{\"selection\": \"", 0.9), token("Item", 0.9)];
        let letters = match request.messages[0].content.split('|').next().unwrap() {
            "A" => vec![token(" A", 0.8)],
            "both" => vec![token(" A", 0.8), token(" or", 0.5), token(" B", 0.3)],
            _ => vec![token(" C", 0.8)],
        };
        say(item.into_iter().chain(letters).collect())
    });
    let questions = ["A", "both", "none"].map(|q| Question { query: Some(q.into()), ..question("", "x", "y") });
    for (no_answer, worth) in [(0.0, 0.0), (0.5, 0.5)] {
        let settings = JudgeSettings { no_answer, ..sampled(ItemOrders::Both) };
        let verdicts = Judge::new(&model, &prompts, settings).unwrap().score(&questions).unwrap();
        // Chosen first: the right letter is A. Chosen second: it is B, 1 − 0.8 where only A was generated.
        for (verdict, by_order) in verdicts.iter().zip([[0.8, 0.2], [0.8, 0.3], [worth; 2]]) {
            let got: Vec<f64> = verdict.orders.iter().map(|o| o.p_chosen).collect();
            assert_eq!(verdict.orders.iter().map(|o| o.chosen_first).collect::<Vec<_>>(), [true, false]);
            for (got, want) in got.iter().zip(by_order) {
                assert_within!(got - want, 1e-6, "{verdict:?}");
            }
            assert_within!(verdict.p_chosen - (by_order[0] + by_order[1]) / 2.0, 1e-6);
        }
        assert_eq!(verdicts.iter().map(|v| v.malformed).collect::<Vec<_>>(), [false, false, true]);
    }
}

#[test]
fn an_endpoint_that_writes_the_space_as_a_token_is_asked_after_it() {
    let prompts = prompts();
    // " A" is no token of this model, so the letters follow a space. Directly after the prefix they mean nothing.
    let model = Scripted::new("spaces", |request: &CompletionRequest| {
        let prefix = &request.messages.last().unwrap().content;
        let letters = |a: f32, b: f32| [("A".to_owned(), a.ln()), ("B".to_owned(), b.ln())];
        let token = match prefix.strip_suffix(' ') {
            Some(prefix) => {
                assert_eq!((prefix, &request.choices), ("{\"selection\": \"Item", &None));
                TokenLogprob { text: "A".into(), logprob: 0.75f32.ln(), top: letters(0.75, 0.25).into() }
            }
            None => TokenLogprob {
                text: " ".into(),
                logprob: 0.9f32.ln(),
                top: [(" ".to_owned(), 0.9f32.ln())].into_iter().chain(letters(0.01, 0.09)).collect(),
            },
        };
        say(vec![token])
    });
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let verdict = judge.score(&[question("", "x", "y")]).unwrap().remove(0);
    let by_order: Vec<f64> = verdict.orders.iter().map(|o| o.p_chosen).collect();
    assert_within!(by_order[0] - 0.75, 1e-6);
    assert_within!(by_order[1] - 0.25, 1e-6);
}

#[test]
fn the_seed_of_a_sampled_answer_depends_on_seed_question_and_order_alone() {
    let prompts = prompts();
    let seeds = RefCell::new(BTreeMap::new());
    let model = Scripted::new("records", |request: &CompletionRequest| {
        seeds.borrow_mut().insert(request.messages[0].content.clone(), request.seed);
        say(vec![letter(0.5)])
    });
    let questions: Vec<_> = (0..20).map(|i| question(&i.to_string(), "x", "y")).collect();
    let of = |seed: u64, questions: &[Question]| -> BTreeMap<String, u64> {
        let settings = JudgeSettings { seed, ..sampled(ItemOrders::Both) };
        Judge::new(&model, &prompts, settings).unwrap().score(questions).unwrap();
        std::mem::take(&mut *seeds.borrow_mut())
    };
    let all = of(5, &questions);
    let different: std::collections::BTreeSet<u64> = all.values().copied().collect();
    assert_eq!((all.len(), different.len()), (40, 40), "each question and order has its own seed");
    let mut reversed = questions.clone();
    reversed.reverse();
    assert_eq!(of(5, &reversed), all);
    assert!(of(5, &questions[7..9]).iter().all(|(content, seed)| all[content] == *seed));
    assert!(of(6, &questions).iter().all(|(content, seed)| all[content] != *seed));
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
fn the_summary_is_judged_by_each_target_and_not_the_reasoning() {
    let prompts = prompts();
    let model = Counting(RefCell::default());
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let target = Interaction { chosen: "jazz".into(), rejected: Some("rock".into()), ..Interaction::default() };
    let of_shop = Interaction {
        task: Some("shop".into()),
        chosen: "rock".into(),
        rejected: Some("jazz".into()),
        ..target.clone()
    };
    let targets = [target, of_shop];
    let asked = |text: &str| target_requests(FormatGate::Strict, text, &targets).unwrap();
    // The judge does not see the reasoning: the second response names the choice in its reasoning only.
    let requests = [asked("<think>t</think>Likes jazz."), asked("<think>jazz</think>Likes rock.")].concat();
    assert_eq!(
        requests.iter().map(|r| r.task.as_deref()).collect::<Vec<_>>(),
        [None, Some("shop"), None, Some("shop")]
    );
    let queries: Vec<JudgeQuery> = requests.into_iter().map(|request| request.query).collect();
    let judged = judge.answer(&queries).unwrap();
    assert_eq!(*model.0.borrow(), [8], "two responses, two targets and two orders each, in one call");
    for (got, want) in judged.iter().zip([0.9, 0.1, 0.1, 0.9]) {
        assert_within!(got.p_chosen - want, 1e-6, "{judged:?}");
    }
    let one_sided = [targets[0].clone(), Interaction { chosen: "jazz".into(), ..Interaction::default() }];
    let error = target_requests(FormatGate::Strict, "<think>t</think>a", &one_sided).unwrap_err().to_string();
    assert_eq!(error, "target 1 has no `rejected` item; a judge compares two items: add one or remove the target");
}

#[test]
fn the_published_gate_keeps_an_empty_summary_and_rejects_what_does_not_begin_with_its_tag() {
    let responses =
        ["<think>t</think> \n", "<think>t</think>\nLikes jazz. ", " <think>t</think>Likes rock.", "<think></think>a"];
    let summaries = |gate| responses.map(|text| split(gate, text).map(|parts| parts.summary));
    assert_eq!(summaries(FormatGate::Published), [Some(""), Some("Likes jazz."), None, None]);
    assert_eq!(summaries(FormatGate::Strict), [None, Some("Likes jazz."), Some("Likes rock."), Some("a")]);
}

#[test]
fn answers_and_likelihoods_are_read_in_the_call_of_the_questions() {
    let prompts = prompts();
    let asked = RefCell::new(Vec::new());
    // The chosen text of a likelihood has two tokens; the first of two answers has probability 0.9.
    let model = Scripted::new("scores", |request: &CompletionRequest| {
        asked.borrow_mut().push((request.messages.clone(), request.choices.clone(), request.continuation.clone()));
        let logprob = |p: f64| TokenLogprob { text: "t".into(), logprob: p.ln() as f32, top: vec![] };
        match (&request.continuation, &request.choices) {
            (Some(_), _) => say(vec![logprob(0.5), logprob(0.125)]),
            (None, Some([first, second])) => {
                let top = vec![(first.clone(), 0.9_f64.ln() as f32), (second.clone(), 0.1_f64.ln() as f32)];
                say(vec![TokenLogprob { text: first.clone(), logprob: top[0].1, top }])
            }
            (None, None) => say(vec![]),
        }
    });
    let judge = Judge::new(&model, &prompts, forced(ItemOrders::Both)).unwrap();
    let turn = [Message::user("Do they agree?")];
    let opened = [turn[0].clone(), Message::assistant("Answer:")];
    let choices = ["yes".to_string(), "no".to_string()];
    let queries = [
        JudgeQuery::Answer { messages: turn.to_vec(), choices: choices.clone() },
        JudgeQuery::Answer { messages: opened.to_vec(), choices },
        JudgeQuery::Likelihood { messages: turn.to_vec(), text: "They do.".into() },
        JudgeQuery::Choice(question("", "x", "y")),
    ];
    let verdicts = judge.answer(&queries).unwrap();
    for (verdict, want) in verdicts.iter().zip([0.9, 0.9, 0.25]) {
        assert_within!(verdict.p_chosen - want, 1e-6);
        assert!(verdict.orders.is_empty() && !verdict.malformed);
    }
    assert_eq!(verdicts.iter().map(|v| v.tokens).collect::<Vec<_>>(), [0, 0, 2, 0]);
    assert_eq!(verdicts[3].orders.len(), 2);
    let asked = asked.take();
    assert_eq!(asked.len(), 5);
    assert_eq!(asked[1].0, opened);
    assert_eq!(asked[2].2.as_deref(), Some("They do."));
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
    let no_sample = JudgeSettings { max_new_tokens: 0, ..sampled(ItemOrders::One) };
    let cold = JudgeSettings { temperature: -0.1, ..sampled(ItemOrders::One) };
    let nothing = JudgeSettings { top_p: 0.0, ..sampled(ItemOrders::One) };
    let beyond = JudgeSettings { no_answer: 1.5, ..forced(ItemOrders::Both) };
    for settings in [same, spaced, no_prefix, no_tokens, no_sample, cold, nothing, beyond] {
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
