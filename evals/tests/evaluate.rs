//! End-to-end evaluations with scripted models and judges: words are preferences, and the judge looks for the item's
//! word.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};

use chat::completer::{CompleterError, Scripted};
use chat::{
    Completer, Completion, CompletionRequest, FinishReason, Interaction, Message, PromptSet, Sampling, TokenLogprob,
};
use configs::judge::{ItemOrders, JudgeMode};
use evals::{
    Contender, EvalError, EvalPlan, EvalUser, Evaluation, HistorySplit, NamedJudge, PromptLimit, Setting,
    SummarySource, TargetKind, evaluate,
};
use rewards::{Judge, JudgeSettings};

fn prompts() -> PromptSet {
    let list = "{% for i in interactions %}{{ i.chosen }} {% endfor %}";
    let said = "{% for m in messages %}{{ m.content }} {% endfor %}";
    let sources = [
        ("summarize.j2", format!("past: {{{{ past }}}} new: {list}")),
        ("summarize_messages.j2", format!("past: {{{{ past }}}} new: {said}")),
        ("history.j2", list.to_string()),
        ("history_messages.j2", said.to_string()),
        ("judge.j2", "{{ preference }}|{{ item_a }}|{{ item_b }}".to_string()),
    ];
    PromptSet::new("test", &BTreeMap::from(sources.map(|(file, text)| (file.to_string(), text)))).unwrap()
}

fn choice(chosen: &str, rejected: &str) -> Interaction {
    Interaction { chosen: chosen.into(), rejected: Some(rejected.into()), ..Interaction::default() }
}

/// Returns user `i`, who likes the words `wi0` to `wi3` and states them over a history of four; transfer is about `wi0`
/// only.
fn user(i: usize) -> EvalUser {
    let word = |k: usize| format!("w{i}{k}");
    EvalUser {
        uid: format!("p{i}"),
        history: (0..4).map(|k| choice(&word(k), "-")).collect(),
        targets: (0..4).map(|k| choice(&word(k), "other")).collect(),
        transfer: vec![choice(&word(0), "elsewhere")],
        truth: Some((0..4).map(word).collect::<Vec<_>>().join(" ")),
        ..EvalUser::default()
    }
}

fn say(text: &str) -> Completion {
    Completion { text: text.into(), tokens: vec![], finish: FinishReason::Stop }
}

/// Writes a summary of everything it reads, past and new.
fn attentive(request: &CompletionRequest) -> Completion {
    let (past, new) = request.messages[0].content.strip_prefix("past: ").unwrap().split_once(" new: ").unwrap();
    say(&format!("<think>I see.</think> {} {new}", if past == "Not Provided." { "" } else { past }))
}

/// Ignores the past summary and does not close its reasoning.
fn forgetful(request: &CompletionRequest) -> Completion {
    say(request.messages[0].content.split_once(" new: ").unwrap().1)
}

/// Favors the item whose word it read; otherwise decides by position (0.8 for A).
fn reader(request: &CompletionRequest) -> Completion {
    let parts: Vec<&str> = request.messages[0].content.split('|').collect();
    let known = |item: &str| parts[0].split_whitespace().any(|w| w == item);
    let a: f64 = match (known(parts[1]), known(parts[2])) {
        (true, false) => 0.9,
        (false, true) => 0.1,
        _ => 0.8,
    };
    let top = vec![("A".to_string(), a.ln() as f32), ("B".to_string(), (1.0 - a).ln() as f32)];
    let token = TokenLogprob { text: "A".into(), logprob: top[0].1, top };
    Completion { text: "A".into(), tokens: vec![token], finish: FinishReason::Stop }
}

fn plan(settings: &[Setting]) -> EvalPlan {
    EvalPlan {
        settings: settings.into(),
        split: HistorySplit::Halves,
        sampling: Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, ..Sampling::all(100) },
        seed: 1,
        requests_per_call: 3,
    }
}

const ALL: [Setting; 3] = [Setting::Direct, Setting::Full, Setting::Streaming];

/// Runs an evaluation with the word reader as the only judge.
fn run(users: &[EvalUser], contenders: &[Contender<'_>], plan: &EvalPlan) -> Result<Evaluation, EvalError> {
    let prompts = prompts();
    let model = Scripted::new("reader", reader);
    let settings = JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, "answer ");
    let judge = Judge::new(&model, &prompts, settings).unwrap();
    let judges = [NamedJudge { name: "training", judge: &judge, limit: None }];
    evaluate(users, contenders, &judges, &prompts, plan, &mut |_, _, _| {})
}

fn accuracy(found: &Evaluation, model: &str, setting: Setting, targets: TargetKind) -> f64 {
    let rows = found.rows();
    let row = rows.iter().find(|r| (r.model.as_str(), r.setting, r.targets) == (model, setting, targets));
    row.unwrap_or_else(|| panic!("no row for {model}, {setting}, {targets}")).accuracy
}

#[test]
fn every_contender_gets_what_its_summaries_are_worth() {
    let users: Vec<_> = (0..5).map(user).collect();
    let (good, bad) = (Scripted::new("good", attentive), Scripted::new("bad", forgetful));
    let contenders = [
        Contender::none(),
        Contender::random(),
        Contender::model("sft", &bad),
        Contender::model("rl", &good),
        Contender::oracle(),
    ];
    let found = run(&users, &contenders, &plan(&ALL)).unwrap();
    use {Setting as S, TargetKind as T};
    for (model, setting, targets, want) in [
        // Without knowledge, the judge decides by position, which both orders cancel to exactly a half.
        ("none", S::Full, T::InDomain, 0.5),
        ("none", S::Full, T::Transfer, 0.5),
        ("none", S::Direct, T::InDomain, 1.0),
        ("none", S::Direct, T::Transfer, 1.0),
        ("random", S::Full, T::InDomain, 0.5),
        ("oracle", S::Full, T::InDomain, 1.0),
        ("oracle", S::Full, T::Transfer, 1.0),
        ("rl", S::Full, T::InDomain, 1.0),
        ("rl", S::Streaming, T::InDomain, 1.0),
        ("rl", S::Streaming, T::Transfer, 1.0),
        ("sft", S::Full, T::InDomain, 1.0),
        // Without the past, the second half is known and the first is not: (2 · 1 + 2 · ½) / 4. Transfer is about the
        // first half only.
        ("sft", S::Streaming, T::InDomain, 0.75),
        ("sft", S::Streaming, T::Transfer, 0.5),
    ] {
        assert_eq!(accuracy(&found, model, setting, targets), want, "{model}, {setting}, {targets}");
    }
    let rows = found.rows();
    let under = |model: &str| -> Vec<_> {
        rows.iter().filter(|r| r.model == model && r.targets == T::InDomain).map(|r| r.setting).collect()
    };
    assert_eq!(under("none"), [S::Direct, S::Full]);
    assert_eq!(under("random"), [S::Full]);
    assert_eq!(under("rl"), [S::Full, S::Streaming]);
    assert!(rows.iter().all(|r| r.users == 5));
    let judged = |targets| rows.iter().find(|r| r.targets == targets).unwrap().targets_judged;
    assert_eq!((judged(T::InDomain), judged(T::Transfer)), (20, 5));
    let gains = found.gains("rl", "sft").unwrap();
    let gain = |setting, targets| gains.iter().find(|g| (g.setting, g.targets) == (setting, targets)).unwrap().gain;
    assert_eq!(gains.len(), 4);
    assert_eq!((gain(S::Full, T::InDomain), gain(S::Streaming, T::InDomain)), (0.0, 0.25));
    assert_eq!(gain(S::Streaming, T::Transfer), 0.5);
}

/// Returns user `i`, who states the same words in the messages of conversations.
fn user_of_messages(i: usize) -> EvalUser {
    let user = user(i);
    let messages = user.history.iter().map(|choice| Message::user(choice.chosen.clone())).collect();
    EvalUser { history: Vec::new(), messages, ..user }
}

#[test]
fn messages_are_read_in_every_setting_as_interactions_are() {
    let model = Scripted::new("bad", forgetful);
    let contenders = [Contender::none(), Contender::model("sft", &model)];
    let of_choices = run(&(0..3).map(user).collect::<Vec<_>>(), &contenders, &plan(&ALL)).unwrap();
    let mut users: Vec<_> = (0..3).map(user_of_messages).collect();
    let of_messages = run(&users, &contenders, &plan(&ALL)).unwrap();
    // The scripted models see the words alone.
    assert_eq!(of_messages.summaries, of_choices.summaries);
    for (setting, targets, want) in [
        (Setting::Full, TargetKind::InDomain, 1.0),
        (Setting::Streaming, TargetKind::InDomain, 0.75),
        (Setting::Streaming, TargetKind::Transfer, 0.5),
    ] {
        assert_eq!(accuracy(&of_messages, "sft", setting, targets), want, "{setting}, {targets}");
    }
    assert_eq!(accuracy(&of_messages, "none", Setting::Direct, TargetKind::InDomain), 1.0);
    // Users of both kinds may stand in one file.
    users.push(user(9));
    assert_eq!(run(&users, &contenders, &plan(&ALL)).unwrap().summaries.len(), 2 * users.len());

    users[1].messages.truncate(1);
    let error = run(&users, &contenders, &plan(&ALL)).unwrap_err().to_string();
    assert!(error.contains("p1") && error.contains("has 1 messages; the split Halves needs at least 2"), "{error}");
    users[1].messages.clear();
    let error = run(&users, &contenders, &plan(&ALL)).unwrap_err().to_string();
    assert!(error.contains("at least one message in `messages`"), "{error}");
}

#[test]
fn streaming_hands_the_first_summary_on_and_keeps_it() {
    let model = Scripted::new("good", attentive);
    let found = run(&[user(0), user(1)], &[Contender::model("rl", &model)], &plan(&[Setting::Streaming])).unwrap();
    let summary = found.summary("rl", Setting::Streaming, "p1").unwrap();
    assert_eq!(summary.past.as_deref(), Some("w10 w11"));
    assert_eq!(summary.summary, "w10 w11 w12 w13");
    assert!(summary.well_formed && summary.response.starts_with("<think>"));
    assert_eq!(found.summary("rl", Setting::Full, "p1"), None);
    let model = Scripted::new("bad", forgetful);
    let found = run(&[user(0), user(1)], &[Contender::model("sft", &model)], &plan(&[Setting::Full])).unwrap();
    assert!(!found.summary("sft", Setting::Full, "p0").unwrap().well_formed);
}

#[test]
fn thirds_read_two_thirds_of_the_history() {
    let model = Scripted::new("good", attentive);
    let mut one = user(0);
    one.history.push(choice("late", "-"));
    one.history.push(choice("later", "-"));
    let plan = EvalPlan { split: HistorySplit::Thirds, ..plan(&ALL) };
    let found = run(&[one], &[Contender::model("rl", &model), Contender::none()], &plan).unwrap();
    for setting in [Setting::Full, Setting::Streaming] {
        assert_eq!(found.summary("rl", setting, "p0").unwrap().summary, "w00 w01 w02 w03");
    }
    assert_eq!(accuracy(&found, "none", Setting::Direct, TargetKind::InDomain), 1.0);
}

/// A model that records the seeds of its requests.
struct Seeds(RefCell<Vec<u64>>);

impl Completer for Seeds {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        self.0.borrow_mut().extend(requests.iter().map(|r| r.seed));
        Ok(requests.iter().map(attentive).collect())
    }

    fn name(&self) -> &str {
        "seeds"
    }
}

#[test]
fn every_request_has_its_own_seed_whatever_the_batch_and_the_model() {
    let users: Vec<_> = (0..7).map(user).collect();
    let seeds = |users: &[EvalUser], seed, requests_per_call| {
        let (a, b) = (Seeds(RefCell::default()), Seeds(RefCell::default()));
        let plan = EvalPlan { seed, requests_per_call, ..plan(&ALL) };
        run(users, &[Contender::model("a", &a), Contender::model("b", &b)], &plan).unwrap();
        assert_eq!(a.0, b.0, "compared models draw alike");
        a.0.into_inner()
    };
    let all = seeds(&users, 1, 100);
    assert_eq!(all.len(), 21, "one for full, two for streaming");
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 21);
    assert_eq!(all, seeds(&users, 1, 1));
    assert_ne!(all, seeds(&users, 2, 100));
    assert_eq!(seeds(&users[3..4], 1, 100)[0], all[3], "nor does it depend on who else is there");
}

#[test]
fn a_model_may_have_a_prompt_set_of_its_own() {
    let text = "past: {{ past }} new: {{ interactions[0].chosen }}".to_string();
    let own = PromptSet::new("own", &BTreeMap::from([("summarize.j2".to_string(), text)])).unwrap();
    let model = Scripted::new("good", attentive);
    let contenders = [Contender::model("all", &model), Contender::prompted("own", &model, &own), Contender::none()];
    // The set has no template for histories, so those have the wording of the evaluation.
    let found = run(&[user(0)], &contenders, &plan(&[Setting::Direct, Setting::Full])).unwrap();
    let summary = |name: &str| found.summary(name, Setting::Full, "p0").unwrap().summary.clone();
    assert_eq!([summary("all"), summary("own")], ["w00 w01 w02 w03", "w00"]);
}

#[test]
fn long_histories_lose_their_oldest_interactions() {
    let model = Scripted::new("good", attentive);
    let words = |m: &[Message]| m[0].content.split_whitespace().count();
    // The prompt without a past has four words besides those of the history.
    let limited = |tokens| {
        let limit = Some(PromptLimit { tokens, count: &words });
        let source = SummarySource::Model { model: &model, limit, prompts: None };
        run(&[user(0)], &[Contender { name: "rl".into(), source }], &plan(&[Setting::Full]))
    };
    let found = limited(7).unwrap();
    let summary = found.summary("rl", Setting::Full, "p0").unwrap();
    assert_eq!((summary.summary.as_str(), summary.dropped), ("w02 w03", 2));
    assert_eq!(accuracy(&found, "rl", Setting::Full, TargetKind::InDomain), 0.75);
    assert_eq!(limited(8).unwrap().summaries[0].dropped, 0);
    let error = limited(4).unwrap_err().to_string();
    assert!(error.contains("`p0`") && error.contains("limit of 4 tokens of `rl`"), "{error}");

    let prompts = prompts();
    let model = Scripted::new("reader", reader);
    let settings = JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, "");
    let judge = Judge::new(&model, &prompts, settings).unwrap();
    let limit = Some(PromptLimit { tokens: 4, count: &words });
    let judges = [NamedJudge { name: "second", judge: &judge, limit }];
    let plan = plan(&[Setting::Direct]);
    let found = evaluate(&[user(0)], &[Contender::none()], &judges, &prompts, &plan, &mut |_, _, _| {}).unwrap();
    assert_eq!(accuracy(&found, "none", Setting::Direct, TargetKind::InDomain), 0.75);
}

#[test]
fn judges_stand_side_by_side_and_their_silence_is_counted() {
    let prompts = prompts();
    let (reading, silent) = (Scripted::new("reader", reader), Scripted::new("silent", |_: &CompletionRequest| say("")));
    let settings = || JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, "answer ");
    let training = Judge::new(&reading, &prompts, settings()).unwrap();
    let second = Judge::new(&silent, &prompts, settings()).unwrap();
    let judges =
        [("training", &training), ("second", &second)].map(|(name, judge)| NamedJudge { name, judge, limit: None });
    let users = [user(0), EvalUser { transfer: vec![], ..user(1) }];
    let mut said = Vec::new();
    let found = evaluate(&users, &[Contender::oracle()], &judges, &prompts, &plan(&ALL), &mut |what, done, total| {
        said.push(format!("{what} {done}/{total}"));
    })
    .unwrap();
    let rows = found.rows();
    let row = |judge: &str, targets| rows.iter().find(|r| r.judge == judge && r.targets == targets).unwrap();
    assert_eq!(row("training", TargetKind::InDomain).accuracy, 1.0);
    let quiet = row("second", TargetKind::InDomain);
    assert_eq!((quiet.accuracy, quiet.ci_low, quiet.ci_high), (0.5, 0.5, 0.5));
    assert_eq!((quiet.no_answer, row("training", TargetKind::InDomain).no_answer), (1.0, 0.0));
    let malformed = |judge: &str| found.scores.iter().filter(|s| s.judge == judge).map(|s| s.malformed).sum::<usize>();
    assert_eq!((malformed("training"), malformed("second")), (0, 9));
    // One user has no transfer targets; the interval of the other user alone covers the whole range.
    let transfer = row("training", TargetKind::Transfer);
    assert_eq!((transfer.users, transfer.ci_low, transfer.ci_high), (1, 0.0, 1.0));
    assert_eq!(said[..2], ["judge training reads oracle, full 0/9", "judge training reads oracle, full 3/9"]);
    assert_eq!(said.last().unwrap(), "judge second reads oracle, full 9/9");
}

#[test]
fn a_missing_answer_is_worth_what_the_judge_s_settings_say() {
    let prompts = prompts();
    let silent = Scripted::new("silent", |_: &CompletionRequest| say(""));
    for (mode, no_answer, accuracy) in [
        (JudgeMode::Forced, 0.5, 0.5),
        (JudgeMode::Forced, 0.0, 0.0),
        (JudgeMode::Forced, 0.75, 1.0),
        (JudgeMode::Sampled, 0.5, 0.5),
        (JudgeMode::Sampled, 0.0, 0.0),
    ] {
        let settings = JudgeSettings { no_answer, ..JudgeSettings::new(mode, ItemOrders::One, "answer ") };
        let judge = Judge::new(&silent, &prompts, settings).unwrap();
        let judges = [NamedJudge { name: "silent", judge: &judge, limit: None }];
        let plan = plan(&[Setting::Full]);
        let found = evaluate(&[user(0)], &[Contender::none()], &judges, &prompts, &plan, &mut |_, _, _| {}).unwrap();
        for row in found.rows() {
            assert_eq!((row.accuracy, row.no_answer), (accuracy, 1.0), "{mode:?}, {no_answer}");
        }
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused_before_a_model_is_asked() {
    let model = Scripted::new("untouched", |_: &CompletionRequest| -> Completion { panic!("asked") });
    let rl = || Contender::model("rl", &model);
    let refusal = |users: &[EvalUser], contenders: &[Contender<'_>]| {
        run(users, contenders, &plan(&ALL)).map(|_| ()).unwrap_err().to_string()
    };
    let users = [user(0), user(1)];
    assert_eq!(refusal(&[], &[rl()]), "nothing to evaluate: no users given");
    assert_eq!(refusal(&users, &[]), "nothing to evaluate: no models given");
    assert_eq!(refusal(&users, &[rl(), rl()]), "two models are called `rl`; give each a unique name");
    assert_eq!(refusal(&[user(0), user(0)], &[rl()]), "two users are called `p0`; give each a unique name");
    assert!(refusal(&users[..1], &[rl(), Contender::random()]).contains("at least two users"));
    let nameless = [user(0), EvalUser { truth: None, ..user(1) }];
    assert!(refusal(&nameless, &[rl(), Contender::oracle()]).starts_with("user `p1`: field `truth` is missing"));
    let short = EvalUser { history: vec![choice("x", "y")], ..user(1) };
    let error = refusal(&[user(0), short], &[rl()]);
    assert_eq!(error, "user `p1`: field `history` has 1 interactions; the split Halves needs at least 2");
    let told = Scripted::new("good", attentive);
    let one = EvalUser { history: vec![choice("x", "y")], ..user(1) };
    let found = run(&[one], &[Contender::model("rl", &told)], &plan(&[Setting::Full])).unwrap();
    assert_eq!(found.summaries[0].summary, "x", "one interaction is enough where nothing is divided");
    let one_sided = EvalUser { targets: vec![Interaction::default()], ..user(1) };
    assert!(refusal(&[one_sided], &[rl()]).starts_with("user `p1`: field `targets` has no `rejected` item"));
}

/// A model that fails, or returns too few completions.
struct Broken(bool);

impl Completer for Broken {
    fn complete(&self, _: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        if self.0 { Err(CompleterError::Model("out of memory".into())) } else { Ok(vec![]) }
    }

    fn name(&self) -> &str {
        "broken"
    }
}

#[test]
fn models_that_fail_are_named() {
    let message = |broken: Broken| {
        run(&[user(0)], &[Contender::model("rl", &broken)], &plan(&ALL)).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(message(Broken(true)), "model `rl`: out of memory");
    assert!(message(Broken(false)).starts_with("model `rl` answered 0 of 1 requests"));
}
