//! Panels of scripted judges.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};

use chat::completer::{CompleterError, Usage};
use chat::{Completer, Completion, CompletionRequest, FinishReason, Interaction, PromptSet, TokenLogprob};
use configs::judge::{ItemOrders, JudgeMode, JudgePrices, PanelRule};
use rewards::{
    JudgeError, JudgeModel, JudgeSettings, JudgeStats, Panel, PanelJudge, PanelRequest, PanelVerdict, VerdictStore,
};
use tolerance::assert_within;

fn prompts() -> PromptSet {
    let judge = "{{ preference }}|{{ item_a }}|{{ item_b }}".to_string();
    PromptSet::new("test", &BTreeMap::from([("judge.j2".into(), judge)])).unwrap()
}

fn settings() -> JudgeSettings {
    JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, "answer")
}

/// Answers with probability `p` that the item that begins with `x` is picked.
fn answer(request: &CompletionRequest, p: f64) -> Completion {
    let first = request.messages[0].content.split('|').nth(1).unwrap_or_default();
    let of_first = if first.starts_with('x') { p } else { 1.0 - p };
    let [a, b] = request.choices.clone().expect("a forced judge compares two answers");
    let top = vec![(a.clone(), of_first.ln() as f32), (b, (1.0 - of_first).ln() as f32)];
    let tokens = vec![TokenLogprob { text: a, logprob: top[0].1, top }];
    Completion { text: String::new(), tokens, finish: FinishReason::Length }
}

/// A judge in this process that records the size of each call.
struct Near {
    p: f64,
    calls: Rc<RefCell<Vec<usize>>>,
}

impl Completer for Near {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        self.calls.borrow_mut().push(requests.len());
        Ok(requests.iter().map(|request| answer(request, self.p)).collect())
    }

    fn name(&self) -> &str {
        "near"
    }

    fn usage(&self) -> Usage {
        let requests = self.calls.borrow().iter().sum::<usize>() as u64;
        Usage { prompt_tokens: 100 * requests, completion_tokens: requests }
    }
}

type Calls = Rc<RefCell<Vec<usize>>>;

fn near(name: &str, p: f64) -> (PanelJudge, Calls) {
    let calls = Calls::default();
    let model = Near { p, calls: Rc::clone(&calls) };
    (PanelJudge::new(name, JudgeModel::Local(Box::new(model)), prompts(), settings()), calls)
}

/// A judge at an endpoint, which answers on a signal of the test.
struct Far {
    p: f64,
    calls: Mutex<Vec<usize>>,
    go: Mutex<mpsc::Receiver<()>>,
}

impl Completer for Far {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let lost = |_| CompleterError::Model("connection lost".into());
        self.go.lock().unwrap().recv().map_err(lost)?;
        self.calls.lock().unwrap().push(requests.len());
        Ok(requests.iter().map(|request| answer(request, self.p)).collect())
    }

    fn name(&self) -> &str {
        "far"
    }
}

fn far(name: &str, p: f64) -> (PanelJudge, Arc<Far>, mpsc::Sender<()>) {
    let (sender, receiver) = mpsc::channel();
    let model = Arc::new(Far { p, calls: Mutex::default(), go: Mutex::new(receiver) });
    let remote = JudgeModel::Remote(Arc::clone(&model) as Arc<dyn Completer + Send + Sync>);
    (PanelJudge::new(name, remote, prompts(), settings()), model, sender)
}

fn request(summary: &str, task: Option<&str>) -> PanelRequest {
    let target = Interaction {
        chosen: "x".into(),
        rejected: Some("y".into()),
        task: task.map(str::to_owned),
        ..Interaction::default()
    };
    PanelRequest::choice(&target, summary).unwrap()
}

fn stats(panel: &Panel) -> Vec<(u64, u64)> {
    panel.take_stats().into_iter().map(|JudgeStats { requests, hits, .. }| (requests, hits)).collect()
}

#[test]
fn each_judge_gets_one_batch_and_the_rule_combines_those_that_serve_the_task() {
    let (mut shop, of_shop) = near("shop", 0.6);
    (shop.tasks, shop.weight) = (vec!["shop".into()], 3.0);
    let (any, of_any) = near("any", 0.2);
    let (mut second, of_second) = near("second", 0.9);
    second.weight = 0.0;
    let panel = Panel::new(vec![shop, any, second], PanelRule::Mean, 0.1).unwrap();
    assert_eq!(panel.names(), ["shop", "any", "second"]);
    assert!(!panel.has_remote());
    let asked = [
        request("a", Some("shop")),
        request("a", Some("news")),
        request("a", None).of_judge("second"),
        request("b", Some("shop")),
    ];
    let verdicts = panel.verdicts(&asked).unwrap();
    // Both orders of each question.
    assert_eq!([of_shop, of_any, of_second].map(|calls| calls.take()), [vec![4], vec![4], vec![2]]);
    for (verdict, want) in verdicts.iter().zip([0.5, 0.2, 0.9, 0.5]) {
        assert_within!(verdict.p_chosen - want, 1e-6);
    }
    let judges = |v: &PanelVerdict| v.judges.iter().map(|own| own.judge.clone()).collect::<Vec<_>>();
    assert_eq!(judges(&verdicts[0]), ["shop", "any"]);
    assert_eq!(judges(&verdicts[1]), ["any"]);
    assert_eq!(judges(&verdicts[2]), ["second"]);
    assert_within!(verdicts[0].of("shop").unwrap().p_chosen - 0.6, 1e-6);
    assert_eq!(verdicts[0].of("second"), None);
}

#[test]
fn every_rule_has_its_formula() {
    for (rule, want) in [(PanelRule::Mean, 0.4), (PanelRule::Min, 0.2), (PanelRule::Vote, 0.5)] {
        let panel = Panel::new(vec![near("a", 0.6).0, near("b", 0.2).0], rule, 0.1).unwrap();
        assert_within!(panel.verdicts(&[request("s", None)]).unwrap()[0].p_chosen - want, 1e-6, "{rule:?}");
    }
    let panel = Panel::new(vec![near("a", 0.6).0, near("b", 0.2).0], PanelRule::Softmin, 0.2).unwrap();
    let weight = (-2.0_f64).exp();
    let want = (0.6 * weight + 0.2) / (weight + 1.0);
    assert_within!(panel.verdicts(&[request("s", None)]).unwrap()[0].p_chosen - want, 1e-6);
    // A vote is a vote with a single judge too.
    let panel = Panel::new(vec![near("a", 0.6).0], PanelRule::Vote, 0.1).unwrap();
    assert_eq!(panel.verdicts(&[request("s", None)]).unwrap()[0].p_chosen, 1.0);
}

#[test]
fn verdicts_are_kept_by_content_and_counted() {
    let (mut judge, calls) = near("judge", 0.7);
    judge.prices = JudgePrices { prompt: 2.0, completion: 10.0 };
    let panel = Panel::new(vec![judge], PanelRule::Mean, 0.1).unwrap();
    let first = panel.verdicts(&[request("a", None), request("a", None), request("b", None)]).unwrap();
    assert_eq!(first[0], first[1]);
    // Another task is no other question.
    let again = panel.verdicts(&[request("b", Some("shop")), request("c", None)]).unwrap();
    assert_eq!(again[0], first[2]);
    assert_eq!(*calls.borrow(), [4, 2]);
    let stats = panel.take_stats().remove(0);
    assert_eq!((stats.requests, stats.hits, stats.tokens), (4, 1, 606));
    assert_within!(stats.cost.unwrap() - (600.0 * 2.0 + 6.0 * 10.0) / 1e6, 1e-12);
    let stats = panel.take_stats().remove(0);
    assert_eq!((stats.requests, stats.tokens, stats.seconds), (0, 0, 0.0));
    assert!(panel.verdicts(&[]).unwrap().is_empty());
    assert_eq!(calls.borrow().len(), 2, "nothing to ask, so no call");
}

#[test]
fn an_endpoint_answers_between_submission_and_need() {
    let (judge, model, go) = far("far", 0.8);
    let (local, calls) = near("near", 0.4);
    let panel = Panel::new(vec![judge, local], PanelRule::Mean, 0.1).unwrap();
    assert!(panel.has_remote());
    panel.submit(&[request("a", None), request("b", None)]).unwrap();
    go.send(()).unwrap();
    while model.calls.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    // The other judge was not asked yet. A second submission asks nothing new.
    assert!(calls.borrow().is_empty());
    panel.submit(&[request("a", None)]).unwrap();
    go.send(()).unwrap();
    let verdicts = panel.verdicts(&[request("a", None), request("b", None), request("c", None)]).unwrap();
    assert!(verdicts.iter().all(|v| (v.p_chosen - 0.6).abs() < 1e-6), "{verdicts:?}");
    assert_eq!(*model.calls.lock().unwrap(), [4, 2]);
    assert_eq!(*calls.borrow(), [6]);
    assert_eq!(stats(&panel), [(3, 0), (3, 0)]);
    // What was answered before is a hit for both.
    assert_eq!(panel.verdicts(&[request("a", None)]).unwrap(), verdicts[..1]);
    assert_eq!(stats(&panel), [(1, 1), (1, 1)]);
}

#[test]
fn verdicts_on_disk_answer_for_the_same_judge_only() {
    let folder = tempfile::tempdir().unwrap();
    let asked = [request("a", None), request("b", None)];
    let judged = |model: &str, settings: JudgeSettings| {
        let (mut judge, calls) = near("judge", 0.7);
        (judge.store, judge.settings) = (Some(VerdictStore::open(folder.path(), model).unwrap()), settings);
        let panel = Panel::new(vec![judge], PanelRule::Mean, 0.1).unwrap();
        (panel.verdicts(&asked).unwrap(), calls.take())
    };
    let (first, calls) = judged("model", settings());
    assert_eq!(calls, [4]);
    let (second, calls) = judged("model", settings());
    assert_eq!((second, calls), (first, vec![]));
    // The seed does not matter to a judge that sees both orders and samples nothing.
    assert!(judged("model", JudgeSettings { seed: 5, ..settings() }).1.is_empty());
    assert_eq!(judged("model", JudgeSettings { no_answer: 0.0, ..settings() }).1, [4]);
    assert_eq!(judged("model", JudgeSettings { orders: ItemOrders::One, ..settings() }).1, [2]);
    assert_eq!(judged("another", settings()).1, [4]);
}

#[test]
fn requests_without_a_judge_and_endpoints_that_fail_are_errors() {
    let (mut shop, _) = near("shop", 0.6);
    shop.tasks = vec!["shop".into()];
    let panel = Panel::new(vec![shop], PanelRule::Mean, 0.1).unwrap();
    let message = |request: PanelRequest| panel.verdicts(&[request]).unwrap_err().to_string();
    assert!(message(request("a", Some("news"))).contains("serves the task `news`; add the task to `tasks`"));
    assert!(message(request("a", None)).contains("serves choices without a task"));
    let unknown = message(request("a", None).of_judge("secnd"));
    assert!(unknown.contains("no judge is named `secnd`; the judges of this run: shop"), "{unknown}");
    let twice = Panel::new(vec![near("a", 0.5).0, near("a", 0.5).0], PanelRule::Mean, 0.1);
    assert!(matches!(twice, Err(JudgeError::Settings(_))));
    assert!(matches!(Panel::new(Vec::new(), PanelRule::Mean, 0.1), Err(JudgeError::Settings(_))));

    let (judge, _, go) = far("far", 0.8);
    let panel = Panel::new(vec![judge], PanelRule::Mean, 0.1).unwrap();
    panel.submit(&[request("a", None)]).unwrap();
    drop(go);
    // The second time, the query is asked again in place of waiting for the failed batch.
    for _ in 0..2 {
        let error = panel.verdicts(&[request("a", None)]).unwrap_err().to_string();
        assert_eq!(error, "judge `far`: connection lost");
    }
}
