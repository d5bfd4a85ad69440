//! Judges on local models, and the use of their verdicts in rollouts and rewards.

use std::cell::RefCell;
use std::collections::BTreeMap;

use chat::completer::CompleterError;
use chat::tokenizer::Tokenizer;
use chat::{Completer, Completion, CompletionRequest, Draw, Message, PromptSet, Question, TokenLogprob};
use configs::RlConfig;
use configs::judge::{ItemOrders, JudgeMode};
use configs::model::{Device, Dtype, ModelShape};
use configs::rl::reward::{FormatGate, MalformedReward};
use lm::LocalModel;
use lm::generate::ScoreRequest;
use rewards::{
    Composition, CompositionState, Judge, JudgeQuery, JudgeSettings, PanelRequest, PanelVerdict, Registry, RewardBatch,
    RewardError, RewardTerm, TermSpec,
};
use tolerance::assert_within;
use trainer::TrainError;
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::replay::{RecordedStep, replay};
use trainer::grpo::rollout::Rollouts;
use trainer::grpo::{advantages, metrics};
use trainer::start;

use fixtures::policy::{composition, config, rolled_out, rows, trainable, with_rollouts};

/// Returns a model with random weights and a byte-level tokenizer like Qwen's, whose vocabulary has ` A` and ` B`.
fn judge_model() -> LocalModel {
    tch::set_num_threads(1);
    let text = "Which item? {\"selection\": \"Item A\"} or {\"selection\": \"Item B\"}; A or B, jazz ".repeat(20);
    let tokenizer = Tokenizer::train([text.as_str()].into_iter(), 360).unwrap();
    let shape = ModelShape {
        hidden_size: 64,
        intermediate_size: 128,
        layers: 2,
        head_dim: 16,
        init_std: 0.2,
        tie_word_embeddings: false,
        max_position_embeddings: 512,
        ..ModelShape::default()
    };
    start::random("judge", &shape, tokenizer, 5, (Device::Cpu, Dtype::Fp32)).unwrap()
}

fn prompts() -> PromptSet {
    let judge = "{{ preference }}? {{ item_a }} or {{ item_b }}".to_string();
    PromptSet::new("test", &BTreeMap::from([("judge.j2".into(), judge)])).unwrap()
}

fn questions(count: usize) -> Vec<Question> {
    let question = |i: usize| Question {
        query: None,
        preference: format!("jazz {i}"),
        chosen: "jazz".into(),
        rejected: "rock".into(),
    };
    (0..count).map(question).collect()
}

/// Returns the log-probability of the letter's token in the answer `{"selection": "Item LETTER"}` to a question.
fn in_a_free_answer(model: &LocalModel, question: &[Message], letter: &str) -> f64 {
    let tokenizer = &model.tokenizer;
    let answer = Message::assistant(format!("{{\"selection\": \"Item {letter}\"}}"));
    let text = tokenizer.template().open(&[question, &[answer]].concat(), Some(false)).unwrap();
    let (ids, offsets) = tokenizer.encode_with_offsets(&text).unwrap();
    let at = text.len() - "\"}".len() - letter.len();
    let place = offsets.iter().position(|token| token.contains(&at)).unwrap();
    assert_eq!(tokenizer.decode(&ids[place..=place]).unwrap(), format!(" {letter}"));
    let (scores, _) = model.generator().score(&[ScoreRequest { ids, from: place, candidates: vec![] }]).unwrap();
    f64::from(scores[0].logprobs[0])
}

#[test]
fn forced_probabilities_are_those_of_the_letter_in_a_free_answer() {
    let (model, prompts, questions) = (judge_model(), prompts(), questions(10));
    let token = |text: &str| -> u32 {
        let ids = model.tokenizer.encode(text).unwrap();
        assert_eq!(ids.len(), 1, "{text:?} is one token");
        ids[0]
    };
    let [a, b] = ["A", "B"].map(token);
    assert!(token(" A") != a && token(" B") != b);
    let free = Judge::new(&model, &prompts, JudgeSettings::new(JudgeMode::Sampled, ItemOrders::Both, "")).unwrap();
    let prefix = "{\"selection\": \"Item ";
    let mut farthest: f64 = 0.0;
    for settings in [prefix, prefix.trim_end()].map(|p| JudgeSettings::new(JudgeMode::Forced, ItemOrders::Both, p)) {
        let forced = Judge::new(&model, &prompts, settings).unwrap();
        for (question, verdict) in questions.iter().zip(forced.score(&questions).unwrap()) {
            assert!(!verdict.malformed);
            for order in &verdict.orders {
                let mut messages = free.messages(question, order.chosen_first).unwrap();
                let [first, second] = ["A", "B"].map(|letter| in_a_free_answer(&model, &messages, letter));
                let p_first = 1.0 / (1.0 + (second - first).exp());
                let expected = if order.chosen_first { p_first } else { 1.0 - p_first };
                assert_within!(order.p_chosen - expected, 1e-6, "{order:?}, in the answer {expected}");

                // After a space of its own, the letters are other tokens with other probabilities.
                messages.push(Message::assistant(prefix));
                let ids = model.tokenizer.encode_chat(&messages, Some(false)).unwrap();
                let spaced = ScoreRequest { from: ids.len(), ids, candidates: vec![a, b] };
                let letters = model.generator().score(&[spaced]).unwrap().0.remove(0).candidates;
                let p_spaced = 1.0 / (1.0 + f64::from(letters[1] - letters[0]).exp());
                farthest = farthest.max((p_spaced - p_first).abs());
            }
        }
    }
    assert!(farthest > 0.01, "{farthest}");
}

/// A model that records its answers.
struct Recording<'a> {
    model: &'a LocalModel,
    answers: RefCell<Vec<Completion>>,
}

impl Completer for Recording<'_> {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answers = self.model.complete(requests)?;
        self.answers.borrow_mut().extend(answers.iter().cloned());
        Ok(answers)
    }

    fn name(&self) -> &str {
        "recording"
    }
}

#[test]
fn a_sampled_answer_is_read_as_generated_and_depends_on_seed_and_question_alone() {
    let (model, prompts, questions) = (judge_model(), prompts(), questions(40));
    let recording = Recording { model: &model, answers: RefCell::default() };
    let judge = |settings: &JudgeSettings| Judge::new(&recording, &prompts, settings.clone()).unwrap();
    let settings = JudgeSettings::new(JudgeMode::Sampled, ItemOrders::Both, "");
    let settings = JudgeSettings { max_new_tokens: 12, no_answer: 0.125, ..settings };
    judge(&settings).score(&questions).unwrap();

    // The letters are the two most frequent tokens, because random weights rarely write A or B.
    let stripped = |token: &TokenLogprob| token.text.replace(' ', "");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in recording.answers.take() {
        for text in answer.tokens.iter().map(stripped).filter(|t| t.is_ascii() && !t.is_empty() && t.trim() == t) {
            *counts.entry(text).or_default() += 1;
        }
    }
    let mut frequent: Vec<(usize, String)> = counts.into_iter().map(|(text, count)| (count, text)).collect();
    frequent.sort();
    let choices = [frequent.pop().unwrap().1, frequent.pop().unwrap().1];
    let settings = JudgeSettings { choices: choices.clone(), ..settings };

    let all = judge(&settings).score(&questions).unwrap();
    let (mut silent, answers) = (0, recording.answers.take());
    assert_eq!(answers.len(), 80);
    for (order, answer) in all.iter().flat_map(|v| &v.orders).zip(&answers) {
        let last = |choice: &String| answer.tokens.iter().rfind(|token| stripped(token) == *choice);
        let places = if order.chosen_first { [0, 1] } else { [1, 0] };
        let [right, wrong] = places.map(|i: usize| last(&choices[i]).map(|token| f64::from(token.logprob).exp()));
        let expected = right.or(wrong.map(|p| 1.0 - p));
        assert_eq!(order.malformed, expected.is_none());
        assert_within!(order.p_chosen - expected.unwrap_or(0.125), 1e-6);
        silent += usize::from(order.malformed);
    }
    assert!((1..80).contains(&silent), "{silent} of 80");

    let mut reversed = questions.clone();
    reversed.reverse();
    let mut again = judge(&settings).score(&reversed).unwrap();
    again.reverse();
    assert_eq!(all, again);
    assert_eq!(judge(&settings).score(&questions[5..6]).unwrap(), all[5..6]);
    let with = |settings: JudgeSettings| judge(&settings).score(&questions).unwrap();
    let greedy = with(JudgeSettings { temperature: 0.0, ..settings.clone() });
    assert_eq!(greedy, with(JudgeSettings { top_k: 1, seed: 1, ..settings.clone() }), "the only token is the best");
    assert_ne!(greedy, all);
    assert_ne!(with(JudgeSettings { seed: 1, ..settings.clone() }), all);
    assert_ne!(with(JudgeSettings { top_p: 0.2, ..settings.clone() }), all);
    assert_ne!(with(JudgeSettings { max_new_tokens: 2, ..settings }), all);
}

#[test]
fn the_share_without_an_answer_is_over_the_targets_of_judged_summaries() {
    let mut config = config();
    config.reward.targets_per_stage = 3;
    let (rows, trainable, told) = (rows(8), trainable(&config, None), RefCell::new(Vec::new()));
    // Three of four summaries are judged; the judge has no answer to one choice of two.
    let gate = |text: &str| Draw::new(3).text(text).below(4) > 0;
    let ask = |requests: &[PanelRequest]| {
        let one = |request: &PanelRequest| match &request.query {
            JudgeQuery::Choice(Question { preference, chosen, .. }) => {
                let malformed = Draw::new(2).text(preference).text(chosen).below(2) == 0;
                PanelVerdict { malformed, ..PanelVerdict::new(0.25) }
            }
            other => panic!("{other:?} is no question about a choice"),
        };
        let verdicts: Vec<PanelVerdict> = requests.iter().map(one).collect();
        told.borrow_mut().extend(verdicts.iter().map(|v| f64::from(u8::from(v.malformed))));
        Ok::<_, TrainError>(verdicts)
    };
    let next = CurriculumSampler::new(&rows, &config).unwrap().next(config.rollout.users_per_step, (0, 0));
    let groups = with_rollouts(&config, |rollouts| {
        let rollouts = Rollouts { ask: &ask, gate: Some(&gate), ..rollouts };
        trainable.as_one(|model| rollouts.roll_out((model, &trainable.context), &next, (0, 0))).unwrap().groups
    });
    let told = told.into_inner();
    let share = told.iter().sum::<f64>() / told.len() as f64;
    assert!(told.len().is_multiple_of(3) && 0.0 < share && share < 1.0, "{share} of {}", told.len());
    for sample in groups.iter().flat_map(|g| &g.samples) {
        assert!(sample.p_chosen.is_some() || sample.no_answer == 0.0);
        assert!((sample.no_answer * 3.0).round() / 3.0 == sample.no_answer, "{}", sample.no_answer);
    }
    let advantages = advantages::credit(&groups, &config).unwrap();
    let metrics = metrics::of_samples(&groups, &advantages, &composition(&config));
    let metric = |name: &str| metrics.iter().find(|(key, _)| key == name).unwrap().1;
    assert_within!(metric("no_answer") - share, 1e-12);
    assert!(metric("stage1/no_answer").is_finite() && metric("stage2/no_answer").is_finite());
    // The share is there also where nothing is judged.
    let mut unjudged = groups;
    unjudged.iter_mut().flat_map(|g| &mut g.samples).for_each(|s| (s.p_chosen, s.no_answer) = (None, 0.0));
    let metrics = metrics::of_samples(&unjudged, &advantages, &composition(&config));
    assert_eq!(metrics.iter().find(|(key, _)| key == "no_answer").unwrap().1, 0.0);
}

#[test]
fn a_malformed_response_has_the_configured_reward() {
    let with = |malformed: MalformedReward| {
        let mut config = config();
        // With this sign, every well-formed response has a reward of at most 0.
        config.reward.terms[0].weight = -1.0;
        config.reward.malformed = malformed;
        rolled_out(&config, &trainable(&config, None))
    };
    let mut seen = 0;
    for (malformed, groups) in
        [MalformedReward::Value(0.0), MalformedReward::Value(-2.0), MalformedReward::Minimum].map(|m| (m, with(m)))
    {
        for group in &groups {
            let formed = || group.samples.iter().filter(|s| s.reward.well_formed).map(|s| s.reward.total);
            let minimum = formed().reduce(f64::min).unwrap_or(0.0);
            let expected = match malformed {
                MalformedReward::Value(value) => value,
                MalformedReward::Minimum => minimum,
            };
            for sample in group.samples.iter().filter(|s| !s.reward.well_formed) {
                assert_eq!(sample.reward.total, expected);
                seen += usize::from(formed().next().is_some());
            }
        }
    }
    assert!(seen > 0, "no malformed response in a group with well-formed ones");
}

/// Scores 1 for a response that has a summary.
#[derive(serde::Deserialize)]
struct HasSummary {}

impl RewardTerm for HasSummary {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        Ok(batch.responses.iter().map(|r| f64::from(u8::from(r.summary().is_some()))).collect())
    }
}

#[test]
fn reward_terms_read_summaries_by_the_run_s_gate() {
    let config = config();
    let mut groups = rolled_out(&config, &trainable(&config, None));
    for sample in groups.iter_mut().flat_map(|g| &mut g.samples) {
        (sample.text, sample.p_chosen) = ("<think>jazz</think> ".into(), Some(0.5));
    }
    let step = RecordedStep::new(1, String::new(), CompositionState::default(), groups, Vec::new());
    let mut registry = Registry::default();
    registry.register::<HasSummary>("has_summary").unwrap();
    let composition = Composition::new(&registry, &[TermSpec::new("has_summary", 1.0)]).unwrap();
    for (gate, score) in [(FormatGate::Strict, 0.0), (FormatGate::Published, 1.0)] {
        let mut config: RlConfig = config.clone();
        config.reward.gate = gate;
        let found = replay(&step, &config, &composition).unwrap();
        assert!(found.groups.iter().flat_map(|g| &g.samples).all(|s| s.reward.scores == [score]), "{gate:?}");
    }
}
