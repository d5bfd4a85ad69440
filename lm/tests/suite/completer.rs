//! The model as a `Completer`: text in, text out.

use chat::completer::{CompleterError, Failures};
use chat::{Completer, Completion, CompletionRequest, FinishReason, Message, Sampling};
use lm::{Decoder, Family, LocalModel, Packed};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

use crate::fixtures::{CONTEXT, VOCAB, decoder, spec, tokenizer, weights};

fn model() -> LocalModel {
    LocalModel::new("tiny", decoder(Family::Qwen3, false), tokenizer()).unwrap()
}

fn sampled(text: &str, seed: u64, max_tokens: usize) -> CompletionRequest {
    let sampling = Sampling::all(max_tokens);
    CompletionRequest { seed, ..CompletionRequest::new(vec![Message::user(text)], sampling) }
}

fn one(model: &LocalModel, request: CompletionRequest) -> Completion {
    model.complete(&[request]).unwrap().remove(0)
}

/// Returns the log-probabilities of the next token after `ids`, at temperature 1.
fn next(model: &LocalModel, ids: &[u32]) -> Tensor {
    let batch = Packed::new(&[ids], CONTEXT, Device::Cpu).unwrap();
    tch::no_grad(|| model.decoder.logits(&batch)).unwrap().get(-1).log_softmax(-1, Kind::Float)
}

/// Tests requests as the judge makes them: the beginning of the answer is forced, and the alternatives of the next token are read.
#[test]
fn a_forced_prefix_is_continued_and_alternatives_are_reported() {
    let model = model();
    let messages = vec![Message::user("Which one, A or B?"), Message::assistant("{\"answer\": \"")];
    let mut request = CompletionRequest::new(messages.clone(), Sampling::greedy(4));
    request.top_logprobs = 20;
    let answer = one(&model, request.clone());
    let prompt = model.tokenizer.encode_chat(&messages, None).unwrap();
    let text = "<|im_start|>user\nWhich one, A or B?<|im_end|>\n<|im_start|>assistant\n{\"answer\": \"";
    assert_eq!(prompt, model.tokenizer.encode(text).unwrap(), "no turn is closed or opened after the prefix");

    let own = next(&model, &prompt);
    let (values, ids) = own.topk(20, -1, true, true);
    for (i, (text, logprob)) in answer.tokens[0].top.iter().enumerate() {
        let id = ids.int64_value(&[i as i64]) as u32;
        assert_eq!(*text, model.tokenizer.decode(&[id]).unwrap());
        assert_within!(f64::from(*logprob) - values.double_value(&[i as i64]), 1e-4);
    }
    for token in &answer.tokens {
        assert_eq!(token.top.len(), 20);
        assert!(token.top.is_sorted_by(|a, b| a.1 >= b.1), "best first");
        assert!(token.top.iter().all(|(_, logprob)| *logprob <= 0.0));
        assert_eq!(token.top[0], (token.text.clone(), token.logprob), "greedy decoding takes the best");
    }

    request.top_logprobs = VOCAB as usize;
    let whole = one(&model, request);
    assert_eq!(whole.tokens[0].top[..20], answer.tokens[0].top[..]);
    let total: f64 = whole.tokens[0].top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum();
    assert_within!(total - 1.0, 1e-4, "probabilities of the whole vocabulary sum to {total}");
}

#[test]
fn choices_are_compared_by_the_first_tokens_in_which_the_whole_texts_differ() {
    let model = model();
    let prefix = "{\"prefers\": \"She likes";
    let asked = |prefix: &str, choices: [&str; 2]| CompletionRequest {
        choices: Some(choices.map(str::to_owned)),
        ..CompletionRequest::new(vec![Message::user("What?"), Message::assistant(prefix)], Sampling::greedy(1))
    };
    let encoded = |choice: &str| {
        let messages = [Message::user("What?"), Message::assistant(format!("{prefix}{choice}"))];
        model.tokenizer.encode_chat(&messages, None).unwrap()
    };
    let generated = sampled("likes space", 3, 9);
    let spaced = format!("{prefix} ");
    let requests = [
        asked(prefix, [" space", " stories"]),
        generated.clone(),
        asked(prefix, [" reports", " warm stories"]),
        asked(&spaced, ["space", "stories"]),
    ];
    let answers = model.complete(&requests).unwrap();
    for (i, choices) in [(0, [" space", " stories"]), (2, [" reports", " warm stories"])] {
        let [first, second] = choices.map(encoded);
        let place = first.iter().zip(&second).take_while(|(a, b)| a == b).count();
        let expected = next(&model, &first[..place]);
        let [token] = &answers[i].tokens[..] else { panic!("{:?}", answers[i]) };
        assert_eq!(token.top.len(), 2);
        for (choice, ids) in choices.iter().zip([&first, &second]) {
            let logprob = token.top.iter().find(|(text, _)| text == choice).expect("each choice is reported").1;
            assert_within!(f64::from(logprob) - expected.double_value(&[i64::from(ids[place])]), 1e-4);
        }
        assert!(token.top[0].1 >= token.top[1].1, "best first");
        assert_eq!((&token.text, token.logprob), (&token.top[0].0, token.top[0].1));
        assert_eq!(answers[i].text, token.text);
    }
    // Where the space stands makes no difference, and neither do the other requests.
    let logprobs = |i: usize| answers[i].tokens[0].top.iter().map(|(_, logprob)| *logprob).collect::<Vec<_>>();
    assert_eq!(logprobs(0), logprobs(3));
    assert_eq!(answers[1], one(&model, generated));
    let error = model.complete(&[requests[0].clone(), asked(prefix, ["", " space"])]).unwrap_err();
    assert!(matches!(error, CompleterError::Request { index: 1, .. }), "{error}");
    assert!(error.to_string().contains("do not begin alike"), "{error}");
}

#[test]
fn a_continuation_is_scored_token_by_token_and_counted() {
    let model = model();
    let messages = vec![Message::user("What?"), Message::assistant("She likes")];
    let text = " warm stories about space";
    let scored = |text: &str| CompletionRequest {
        continuation: Some(text.into()),
        ..CompletionRequest::new(messages.clone(), Sampling::greedy(1))
    };
    let answer = one(&model, scored(text));
    let prompt = model.tokenizer.encode_chat(&messages, None).unwrap();
    let whole = [messages[0].clone(), Message::assistant(format!("She likes{text}"))];
    let ids = model.tokenizer.encode_chat(&whole, None).unwrap();
    assert!(ids.starts_with(&prompt) && answer.tokens.len() > 1);
    assert_eq!((answer.tokens.len(), answer.text.as_str()), (ids.len() - prompt.len(), text));
    for (i, token) in answer.tokens.iter().enumerate() {
        let at = prompt.len() + i;
        let expected = next(&model, &ids[..at]).double_value(&[i64::from(ids[at])]);
        assert_within!(f64::from(token.logprob) - expected, 1e-4);
        assert!(token.top.is_empty());
    }
    let before = model.usage();
    assert_eq!((before.prompt_tokens, before.completion_tokens), (prompt.len() as u64, answer.tokens.len() as u64));
    let generated = sampled("likes space", 3, 9);
    let asked = model.tokenizer.encode_chat(&generated.messages, None).unwrap().len() as u64;
    one(&model, generated);
    let since = model.usage().since(before);
    assert!(since.prompt_tokens == asked && (1..=9).contains(&since.completion_tokens), "{since:?}");
    let error = model.complete(&[scored("")]).unwrap_err();
    assert!(error.to_string().contains("there is no text to score"), "{error}");
}

#[test]
fn reported_log_probabilities_know_nothing_of_temperature() {
    let model = model();
    let first = |temperature: f64| {
        let mut request = sampled("warm stories", 1, 1);
        request.sampling = Sampling { temperature, top_k: 3, top_p: 0.9, ..Sampling::all(1) };
        request.top_logprobs = 10;
        one(&model, request).tokens.remove(0).top
    };
    assert_eq!(first(0.25), first(1.0));
    assert_eq!(first(0.0), first(1.0));
}

#[test]
fn the_end_of_a_turn_is_a_reason_and_no_text() {
    let model = model();
    let requests: Vec<CompletionRequest> =
        (0..200).map(|seed| CompletionRequest { top_logprobs: 1, ..sampled("likes space", seed, 24) }).collect();
    let answers = model.complete(&requests).unwrap();
    let (ended, cut): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.finish == FinishReason::Stop);
    assert!(!ended.is_empty() && !cut.is_empty(), "of 200 samples {} ended by themselves", ended.len());
    assert!(cut.iter().all(|a| a.tokens.len() == 24));
    assert!(ended.iter().all(|a| a.tokens.len() < 24));
    for answer in &answers {
        assert!(!answer.text.contains("<|im"), "{:?}", answer.text);
        if answer.text.is_ascii() {
            let pieces: String = answer.tokens.iter().map(|t| t.text.as_str()).collect();
            assert_eq!(pieces, answer.text);
        }
    }
}

#[test]
fn tokens_are_reported_only_when_asked_for() {
    let model = model();
    let quiet = sampled("likes space", 3, 9);
    let loud = CompletionRequest { top_logprobs: 2, ..quiet.clone() };
    let answers = model.complete(&[quiet, loud]).unwrap();
    assert_eq!(answers[0].text, answers[1].text);
    assert!(answers[0].tokens.is_empty());
    assert!(!answers[1].tokens.is_empty());
}

/// Returns a seed whose text has a plain word piece in the middle, its completion, and that piece.
fn with_a_piece(model: &LocalModel) -> (CompletionRequest, Completion, String) {
    (0..50)
        .find_map(|seed| {
            let request = CompletionRequest { top_logprobs: 1, ..sampled("gardens and bread", seed, 30) };
            let answer = one(model, request.clone());
            let piece = answer.tokens[5..].iter().find(|t| t.text.len() > 3 && t.text.is_ascii())?.text.clone();
            let early = answer.text.find(&piece)?;
            (early > 3 && answer.text[early + piece.len()..].len() > 3).then_some((request, answer, piece))
        })
        .expect("one of fifty random texts has such a piece")
}

#[test]
fn a_stop_string_ends_the_text_and_stays_in_it() {
    let model = model();
    let (request, free, piece) = with_a_piece(&model);
    let stops = |stop: &[&str]| {
        let stop = stop.iter().map(|s| (*s).to_owned()).collect();
        one(&model, CompletionRequest { stop, ..request.clone() })
    };
    let stopped = stops(&["never said ###", &piece]);
    assert_eq!(stopped.finish, FinishReason::Stop);
    let end = free.text.find(&piece).unwrap() + piece.len();
    assert_eq!(stopped.text, free.text[..end]);
    // Generation stopped at the first token that completed the string: without that token, the text lacks the string.
    let before: String = stopped.tokens[..stopped.tokens.len() - 1].iter().map(|t| t.text.as_str()).collect();
    assert!(!before.contains(&piece));
    assert_eq!(stops(&["never said ###"]), free);
}

#[test]
fn requests_that_differ_only_in_stop_strings_keep_their_own() {
    let model = model();
    let (request, free, piece) = with_a_piece(&model);
    let stopping = CompletionRequest { stop: vec![piece], ..request.clone() };
    for pair in [[request.clone(), stopping.clone()], [stopping, request]] {
        let answers = model.complete(&pair).unwrap();
        for (request, answer) in pair.iter().zip(&answers) {
            let alone = one(&model, request.clone());
            assert_eq!((&answer.text, answer.finish), (&alone.text, alone.finish));
        }
        assert!(answers.iter().any(|a| a.text == free.text) && answers.iter().any(|a| a.text != free.text));
    }
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    let mut model = model();
    let mut requests: Vec<CompletionRequest> = (0..12)
        .map(|i| {
            sampled(["likes space", "short answers, please", "rivers"][i as usize % 3], i / 3, 20 + i as usize % 2)
        })
        .collect();
    requests[4].sampling.temperature = 0.0;
    requests[7].top_logprobs = 3;
    let together = model.complete(&requests).unwrap();
    for (request, answer) in requests.iter().zip(&together) {
        let alone = one(&model, request.clone());
        assert_eq!((&alone.text, alone.finish), (&answer.text, answer.finish));
    }
    model.limits = lm::generate::Limits { max_num_seqs: 2, max_num_batched_tokens: 10, ..model.limits };
    requests.reverse();
    let mut cut = model.complete(&requests).unwrap();
    cut.reverse();
    for (answer, other) in together.iter().zip(&cut) {
        assert_eq!((&answer.text, answer.finish), (&other.text, other.finish));
    }
}

#[test]
fn each_answer_is_handed_over_as_it_is_finished_and_a_request_that_fails_leaves_the_others() {
    let mut model = model();
    model.limits = lm::generate::Limits { max_num_seqs: 2, ..model.limits };
    let long = "space ".repeat(CONTEXT);
    let scored = CompletionRequest { continuation: Some(" space".into()), ..sampled("likes", 0, 1) };
    let requests: Vec<CompletionRequest> =
        [sampled("likes space", 1, 30), sampled(&long, 0, 1), scored, sampled("rivers", 2, 5), sampled("likes", 3, 9)]
            .into();
    let sound = |i: usize| i != 1;
    let mut done = Vec::new();
    let mut keep = |index: usize, completion: &Completion| {
        done.push((index, completion.clone()));
        Ok(())
    };
    let answers = model.complete_with(&requests, Failures::Keep, &mut keep).unwrap();
    assert!(answers.iter().enumerate().all(|(i, answer)| answer.is_ok() == sound(i)));
    assert!(answers[1].as_ref().unwrap_err().contains(&CONTEXT.to_string()));
    for (i, answer) in answers.iter().enumerate().filter(|(i, _)| sound(*i)) {
        assert_eq!(answer.as_ref().unwrap(), &one(&model, requests[i].clone()));
    }
    done.sort_by_key(|(index, _)| *index);
    let expected = answers.into_iter().enumerate().filter_map(|(i, answer)| Some((i, answer.ok()?)));
    assert_eq!(done, expected.collect::<Vec<_>>());

    // A caller that cannot keep an answer ends the generation: nothing further is handed over.
    let mut calls = 0;
    let mut full = |_: usize, _: &Completion| {
        calls += 1;
        if calls == 2 { Err(CompleterError::Model("the disk is full".into())) } else { Ok(()) }
    };
    let error = model.complete_with(&requests, Failures::Keep, &mut full).unwrap_err();
    assert_eq!((error.to_string().as_str(), calls), ("the disk is full", 2));
}

#[test]
fn a_prompt_beyond_the_context_is_named() {
    let model = model();
    let long = "space ".repeat(CONTEXT);
    let error = model.complete(&[sampled("fine", 0, 1), sampled(&long, 0, 1)]).unwrap_err();
    assert!(matches!(error, CompleterError::Request { index: 1, .. }), "{error}");
    assert!(error.to_string().contains(&CONTEXT.to_string()), "{error}");
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let small = lm::ModelConfig { vocab_size: 100, ..spec(Family::Llama, true) };
    let error = LocalModel::new("odd", Decoder::new(weights(&small, 1)), tokenizer()).unwrap_err().to_string();
    assert!(error.contains("100 rows") && error.contains("odd"), "{error}");
}
