//! Requests that are invalid, canceled, stopped, empty, or long.

use chat::FinishReason;
use lm::engine::{Engine, Limits, RequestId, ScoreRequest};

use lm::Family;

use crate::engine::{generate, limits, request};
use crate::fixtures::{VOCAB, decoder, ids};

#[test]
fn what_can_never_fit_is_refused_before_it_begins() {
    let model = decoder(Family::Qwen3, true);
    let mut engine = Engine::new(&model, &[], limits(4, 100, 3));
    let refused = |outcome: Result<RequestId, lm::LmError>, names: &str| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(names), "{error}");
    };
    refused(engine.submit(request(ids(5, 60), vec![1], 40)), "100 tokens");
    refused(engine.submit(request(vec![1, VOCAB as u32], vec![1], 4)), "token id 520");
    let scored = |ids: Vec<u32>, from| ScoreRequest { ids, from, candidates: vec![] };
    refused(engine.submit_score(scored(ids(6, 97), 1)), "97 tokens");
    refused(engine.submit_score(scored(ids(6, 9), 0)), "from token 0");
    refused(engine.submit_score(scored(ids(6, 9), 10)), "from token 10");
    assert!(engine.is_idle());
    assert!(engine.submit(request(ids(5, 56), vec![1], 40)).is_ok());
}

#[test]
fn a_request_that_is_cancelled_gives_everything_back() {
    let model = decoder(Family::Qwen3, true);
    let mut engine = Engine::new(&model, &[], limits(1, 1000, 40));
    let gone = engine.submit(request(ids(7, 50), (0..6).collect(), 100)).unwrap();
    let stays = engine.submit(request(ids(8, 50), vec![9], 20)).unwrap();
    for _ in 0..5 {
        assert!(engine.step().unwrap().sampled.iter().all(|d| d.request == gone));
    }
    engine.cancel(gone);
    let mut drawn = 0;
    while !engine.is_idle() {
        let output = engine.step().unwrap();
        assert!(output.sampled.iter().all(|d| d.request == stays));
        drawn += output.sampled.len();
    }
    assert_eq!(drawn, 20);
    assert!(engine.take(gone).is_none());
    assert_eq!(engine.take(stays).unwrap()[0].ids.len(), 20);
    assert_eq!(engine.blocks_held(), 0, "every block was given back");
}

#[test]
fn one_sample_is_stopped_and_the_others_go_on() {
    let model = decoder(Family::Llama, true);
    let mut engine = Engine::new(&model, &[], Limits::default());
    let id = engine.submit(request(ids(9, 20), vec![1, 2, 3], 30)).unwrap();
    for _ in 0..4 {
        engine.step().unwrap();
    }
    engine.stop(id, 1);
    while !engine.is_idle() {
        assert!(engine.step().unwrap().sampled.iter().all(|d| d.sample != 1));
    }
    let ends: Vec<_> = engine.take(id).unwrap().iter().map(|g| (g.ids.len(), g.finish)).collect();
    assert_eq!(ends, [(30, FinishReason::Length), (4, FinishReason::Stop), (30, FinishReason::Length)]);
}

/// Steps an engine with too small a cache until the younger of two requests was preempted. Returns the number of its tokens.
fn preempt(engine: &mut Engine<'_>, younger: RequestId) -> usize {
    let mut tokens = 0;
    while engine.stats().preemptions == 0 {
        assert!(!engine.is_idle(), "the cache was large enough for both");
        tokens += engine.step().unwrap().sampled.iter().filter(|token| token.request == younger).count();
    }
    tokens
}

#[test]
fn a_preempted_sample_can_be_stopped() {
    let model = decoder(Family::Qwen3, true);
    let mut engine = Engine::new(&model, &[], limits(4, 1000, 6));
    let older = engine.submit(request(ids(9, 60), vec![1], 100)).unwrap();
    let younger = engine.submit(request(ids(8, 60), vec![1], 100)).unwrap();
    let tokens = preempt(&mut engine, younger);
    assert!((1..100).contains(&tokens), "{tokens}");
    engine.stop(younger, 0);
    while !engine.is_idle() {
        assert!(engine.step().unwrap().sampled.iter().all(|token| token.request == older));
    }
    let ends = |engine: &mut Engine<'_>, id| {
        engine.take(id).unwrap().iter().map(|g| (g.ids.len(), g.finish)).collect::<Vec<_>>()
    };
    assert_eq!(ends(&mut engine, younger), [(tokens, FinishReason::Stop)]);
    assert_eq!(ends(&mut engine, older), [(100, FinishReason::Length)]);
    assert_eq!(engine.blocks_held(), 0, "every block was given back");
}

#[test]
fn a_complete_sample_can_be_stopped_and_a_complete_request_canceled() {
    let model = decoder(Family::Llama, true);
    let mut engine = Engine::new(&model, &[], Limits::default());
    let stopped = engine.submit(request(ids(9, 20), vec![1, 2], 1)).unwrap();
    engine.stop(stopped, 0);
    assert!(!engine.is_idle(), "a sample without tokens is not stopped");
    engine.step().unwrap();
    engine.stop(stopped, 0);
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    let finish: Vec<_> = engine.take(stopped).unwrap().iter().map(|g| g.finish).collect();
    assert_eq!(finish, [FinishReason::Stop, FinishReason::Length]);
    // Complete as soon as it is submitted, because it asks for no tokens.
    let canceled = engine.submit(request(ids(9, 20), vec![1], 0)).unwrap();
    engine.cancel(canceled);
    assert!(engine.is_idle(), "a canceled request is not reported");
}

#[test]
fn nothing_asked_nothing_drawn() {
    let model = decoder(Family::Llama, true);
    let samples =
        generate(&model, Limits::default(), &[request(ids(9, 20), vec![1, 2], 0), request(ids(9, 3), vec![], 5)]);
    assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0]);
    assert!(samples[0].iter().all(|g| g.ids.is_empty()));
}

/// A prompt that is longer than a step is read in several steps, while other sequences continue to generate.
#[test]
fn a_long_prompt_does_not_stall_the_others() {
    let model = decoder(Family::Qwen3, true);
    let mut engine = Engine::new(&model, &[], limits(8, 40, 100));
    let short = engine.submit(request(ids(10, 5), vec![1], 30)).unwrap();
    engine.step().unwrap();
    let long = engine.submit(request(ids(11, 200), vec![1], 5)).unwrap();
    let mut steps = 0;
    loop {
        let drawn = engine.step().unwrap().sampled;
        assert!(drawn.iter().any(|d| d.request == short), "the short one draws in every step");
        steps += 1;
        if drawn.iter().any(|d| d.request == long) {
            break;
        }
    }
    // 39 prompt tokens per step, beside the one sampled token.
    assert_eq!(steps, 200usize.div_ceil(39));
}
