use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use chat::completer::Scripted;
use chat::{Completion, FinishReason, Message, Question, RlRow};

use super::*;
use crate::testing;

fn history(uid: &str, choices: usize) -> History {
    let choice = |i: usize| Interaction {
        chosen: format!("{uid}-{i}"),
        rejected: Some("other".into()),
        ..Interaction::default()
    };
    History { uid: uid.into(), interactions: (0..choices).map(choice).collect(), ..History::default() }
}

fn config(num_generations: usize, targets_per_user: usize) -> PolicyPruning {
    PolicyPruning { num_generations, targets_per_user, ..PolicyPruning::default() }
}

/// Prunes with a policy of which every `malformed`-th response is malformed (0: none), and a judge that is right about an item as
/// often as `passes` says. Returns the judged items too.
fn pruned(
    histories: &[History],
    passes: &[(&str, usize)],
    (config, least_window, malformed): (PolicyPruning, usize, usize),
) -> (Vec<RlRow>, PruningReport, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("rl.jsonl"));
    jsonl::write(&input, histories).unwrap();
    let asked = Cell::new(0_usize);
    let policy = Scripted::new("policy", |_: &CompletionRequest| {
        asked.set(asked.get() + 1);
        let text = match malformed > 0 && asked.get().is_multiple_of(malformed) {
            true => "no reasoning".to_owned(),
            false => format!("<think>it is</think>Summary {}.", asked.get()),
        };
        Completion { text, tokens: Vec::new(), finish: FinishReason::Stop }
    });
    let judged = RefCell::new(Vec::new());
    let left = RefCell::new(passes.iter().map(|&(item, n)| (item.to_owned(), n)).collect::<HashMap<_, _>>());
    let verify = |questions: &[Question]| {
        let mut left = left.borrow_mut();
        let mut answer = |question: &Question| {
            judged.borrow_mut().push(question.chosen.clone());
            match left.get_mut(&question.chosen).filter(|n| **n > 0) {
                Some(n) => {
                    *n -= 1;
                    0.9
                }
                None => 0.5,
            }
        };
        Ok(questions.iter().map(&mut answer).collect::<Vec<f64>>())
    };
    let done = Cell::new(0);
    let prompts = testing::compact();
    let job = PolicyJob {
        policy: &policy,
        prompts: &prompts,
        sampling: Sampling::all(8),
        fits: &|_| true,
        verify: &verify,
        config: &config,
        least_window,
        seed: 3,
        progress: &|users| done.set(users),
    };
    let report = prune_by_policy(&input, &out, &job).unwrap();
    assert_eq!(done.get(), histories.len());
    let rows = jsonl::stream::<RlRow>(&out).unwrap().map(|row| row.unwrap().1).collect();
    (rows, report, judged.into_inner())
}

const PASSES: [(&str, usize); 6] = [("u-2", 2), ("u-3", 4), ("u-4", 1), ("u-5", 2), ("u-6", 3), ("u-7", 3)];

#[test]
fn the_targets_are_the_choices_that_some_summaries_predict() {
    let (rows, report, judged) = pruned(&[history("u", 8)], &PASSES, (config(4, 9), 1, 0));
    assert_eq!(judged.len(), 7 * 4, "the first choice has nothing before it");
    // Inside the range: 2 and 5 (a half), 4 (a quarter), 6 and 7 (three quarters).
    assert_eq!((report.choices, report.in_band, report.rows), (7, 5, 1));
    let counts = report.policy.unwrap();
    assert_eq!((counts.summaries, counts.malformed, counts.too_hard, counts.too_easy), (28, 0, 1, 1));
    assert_eq!(counts.by_passes, [1, 1, 2, 2, 1]);
    assert_eq!((rows[0].mid_position, rows[0].history.len(), rows[0].distance_to_end), (2, 6, 3));
}

#[test]
fn pass_rate_and_window_bound_the_targets() {
    let narrow = PolicyPruning { pass_rate: [0.75, 0.75], ..config(4, 9) };
    assert!(pruned(&[history("u", 8)], &PASSES, (narrow, 1, 0)).0.is_empty(), "6 and 7 are adjacent");
    let wide = PolicyPruning { pass_rate: [0.75, 1.0], ..config(4, 9) };
    let (rows, ..) = pruned(&[history("u", 8)], &PASSES, (wide, 1, 0));
    assert_eq!((rows[0].mid_position, rows[0].history.len()), (3, 7));
    let (rows, report, judged) = pruned(&[history("u", 8)], &PASSES, (config(4, 9), 4, 0));
    assert_eq!((rows.len(), report.choices, judged.len()), (0, 4, 16));
}

#[test]
fn of_equally_near_pass_rates_the_earlier_choices_are_kept() {
    // 0.3 and 0.7 are equally far from a half, although the floating-point distance of 0.7 is smaller.
    let passes = [("u-1", 3), ("u-3", 3), ("u-5", 7)];
    let (rows, report, _) = pruned(&[history("u", 8)], &passes, (config(10, 9), 1, 0));
    assert_eq!((report.in_band, rows[0].mid_position, rows[0].history.len()), (3, 1, 4));
    // So are 0.4 and 0.5 from the middle of 0.2 and 0.7, whose sum is not 0.9 in binary.
    let uneven = PolicyPruning { pass_rate: [0.2, 0.7], ..config(10, 9) };
    let passes = [("u-1", 5), ("u-3", 4), ("u-5", 4)];
    let (rows, ..) = pruned(&[history("u", 8)], &passes, (uneven, 1, 0));
    assert_eq!((rows[0].mid_position, rows[0].history.len()), (1, 4));
}

#[test]
fn malformed_summaries_predict_nothing() {
    let (_, report, judged) = pruned(&[history("u", 8)], &PASSES, (config(4, 9), 1, 4));
    let counts = report.policy.unwrap();
    assert_eq!((counts.summaries, counts.malformed, judged.len()), (28, 7, 21));
    // The choice that all four would have predicted now has three of four.
    assert_eq!(counts.by_passes, [1, 1, 2, 3, 0]);
}

#[test]
fn the_measured_choices_of_a_user_do_not_depend_on_others() {
    let both = pruned(&[history("u", 12), history("v", 12)], &[], (config(2, 3), 1, 0)).2;
    let alone = pruned(&[history("v", 12)], &[], (config(2, 3), 1, 0)).2;
    assert_eq!((both.len(), alone.len()), (12, 6));
    assert_eq!(both[6..], alone);
    assert!(both[..6].iter().all(|item| item.starts_with("u-")));
}

#[test]
fn a_summary_of_all_messages_is_asked_about_each_target() {
    let targets = history("u", 4).interactions;
    let messages = vec![Message::user("hello"), Message::assistant("hi")];
    let user = History { uid: "u".into(), messages, targets, ..History::default() };
    let passes = [("u-0", 1), ("u-1", 2), ("u-2", 0), ("u-3", 1)];
    let (rows, report, judged) = pruned(&[user], &passes, (config(2, 4), 5, 0));
    assert_eq!((report.policy.unwrap().summaries, judged.len(), report.in_band), (2, 8, 2));
    let chosen: Vec<&str> = rows[0].stage_targets.iter().map(|target| target.chosen.as_str()).collect();
    assert_eq!((chosen, rows[0].targets.len()), (vec!["u-0", "u-3"], 2));
}

/// Returns what a policy is asked about a user with twelve choices, the counts, and the number of measured choices.
fn asked(
    seed: u64,
    sampling: Sampling,
    fits: &dyn Fn(&[Message]) -> bool,
) -> (Vec<CompletionRequest>, PolicyCounts, usize) {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.jsonl"), folder.path().join("rl.jsonl"));
    jsonl::write(&input, &[history("u", 12)]).unwrap();
    let asked = RefCell::new(Vec::new());
    let policy = Scripted::new("policy", |request: &CompletionRequest| {
        asked.borrow_mut().push(request.clone());
        Completion { text: "<think>a</think>b".into(), tokens: Vec::new(), finish: FinishReason::Stop }
    });
    let verify = |questions: &[Question]| Ok(vec![0.5; questions.len()]);
    let (config, prompts) = (config(2, 3), testing::compact());
    let job = PolicyJob {
        policy: &policy,
        prompts: &prompts,
        sampling,
        fits,
        verify: &verify,
        config: &config,
        least_window: 1,
        seed,
        progress: &|_| {},
    };
    let report = prune_by_policy(&input, &out, &job).unwrap();
    let requests = asked.borrow().clone();
    (requests, report.policy.unwrap(), report.choices)
}

#[test]
fn seed_and_sampling_reach_the_policy() {
    let of = |seed| asked(seed, Sampling::all(8), &|_| true).0;
    let texts = |requests: &[CompletionRequest]| -> Vec<String> {
        requests.iter().map(|request| request.messages[0].content.clone()).collect()
    };
    let (first, others) = (of(1), [2, 3, 4].map(of));
    assert_eq!((first.len(), &first), (6, &of(1)));
    // Another seed samples other summaries, and draws other choices (of 165 possible sets).
    assert!(first.iter().all(|request| others.iter().flatten().all(|other| other.seed != request.seed)));
    assert!(others.iter().any(|other| texts(other) != texts(&first)));
    let greedy = asked(1, Sampling::greedy(5), &|_| true).0;
    assert!(greedy.iter().all(|request| request.sampling == Sampling::greedy(5)));
}

#[test]
fn a_history_that_is_too_long_loses_its_older_half() {
    let read = |messages: &[Message]| messages.iter().map(|m| m.content.matches("u-").count()).sum::<usize>();
    let (requests, counts, measured) = asked(1, Sampling::all(8), &|messages| read(messages) <= 2);
    assert_eq!((counts.too_long, measured, requests.len()), (0, 3, 6));
    assert!(requests.iter().all(|request| (1..=2).contains(&read(&request.messages))));
    let (requests, counts, measured) = asked(1, Sampling::all(8), &|_| false);
    assert_eq!((counts.too_long, measured, requests.len()), (3, 0, 0));
}
