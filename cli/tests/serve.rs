//! `xplore serve`, queried by the official OpenAI client and by our own remote model.

mod serving;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use chat::{Completer, CompletionRequest, Message, PromptSet, Question, Sampling};
use configs::judge::{ItemOrders, JudgeMode};
use fixtures::tiny_model::folder;
use lm::LocalModel;
use remote::{ClientSettings, RemoteModel};
use rewards::{Judge, JudgeSettings, Verdict};
use serde_json::Value as Json;
use tch::{Device, Kind};
use tolerance::assert_within;

use crate::serving::serve;

fn asked(text: &str, seed: u64, max_tokens: usize) -> CompletionRequest {
    CompletionRequest { seed, ..CompletionRequest::new(vec![Message::user(text)], Sampling::all(max_tokens)) }
}

#[test]
fn the_official_client_is_served() {
    let (_place, folder) = folder();
    let server = serve(&folder, &["--api-key", "secret"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = std::env::var_os("XPLORE_REFERENCE_PYTHON").map_or(root.join(".venv/bin/python"), PathBuf::from);
    let run = Command::new(&python)
        .arg(root.join("scripts/reference/openai_client.py"))
        .args([&server.url, "tiny", "secret"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "run scripts/test, which installs the client\n{said}");
    let said: Json = serde_json::from_slice(&run.stdout).unwrap();

    let model = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
    let mut request = asked("likes space and warm stories?", 0, 12);
    request.sampling.temperature = 0.0;
    request.top_logprobs = 1;
    let own = model.complete(&[request]).unwrap().remove(0);
    assert_eq!(said["greedy"], own.text);
    assert_eq!(said["streamed"], own.text);
    assert!(said["pieces"].as_u64().unwrap() > 3, "a stream of one piece is none");
    assert_eq!(said["usage"]["completion_tokens"], 12);
    for (theirs, ours) in said["logprobs"].as_array().unwrap().iter().zip(&own.tokens) {
        assert_within!(theirs.as_f64().unwrap() - f64::from(ours.logprob), 1e-4);
    }
    assert_eq!(said["tokens"].as_array().unwrap().len(), own.tokens.len());
    assert!(said["different"].as_u64().unwrap() > 1);
    let (text, stop) = (said["stopped"][0].as_str().unwrap(), said["stopped"][1].as_str().unwrap());
    assert_eq!(text, &own.text[..own.text.find(stop).unwrap()]);
    for pair in said["alone_and_together"].as_array().unwrap() {
        assert_eq!(pair[0], pair[1], "what a request gets depends on its neighbours");
    }
}

#[test]
fn a_remote_model_answers_as_the_local_one() {
    let (place, folder) = folder();
    let server = serve(&folder, &["--served-model-name", "teacher"]);
    let local = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
    let journal = place.path().join("journal/answers.jsonl");
    let url = server.url.clone();
    let settings = || ClientSettings { retries: 0, ..ClientSettings::new(&url, "teacher") };
    let remote = RemoteModel::new(settings()).with_journal(&journal).unwrap();
    let mut requests: Vec<CompletionRequest> =
        (0..20).map(|seed| asked("likes space", seed, 6 + seed as usize)).collect();
    requests[1].top_logprobs = 4;
    requests[2].sampling =
        Sampling { temperature: 0.7, top_k: 9, top_p: 0.8, min_p: 0.01, ..requests[2].sampling.clone() };
    requests[3].sampling.repetition_penalty = 1.5;
    requests[4].messages.push(Message::assistant("they like"));
    requests[5].sampling.temperature = 0.0;
    requests[6].stop = vec!["a".into(), "e".into()];
    let (here, there) = (local.complete(&requests).unwrap(), remote.complete(&requests).unwrap());
    for (i, (h, t)) in here.iter().zip(&there).enumerate() {
        assert_eq!((&h.text, h.finish), (&t.text, t.finish), "request {i}");
        assert_eq!(h.tokens.len(), t.tokens.len());
        for (a, b) in h.tokens.iter().zip(&t.tokens) {
            assert_eq!((&a.text, a.top.len()), (&b.text, b.top.len()));
            assert_within!(a.logprob - b.logprob, 1e-4);
        }
    }
    drop(server);
    // The journal contains all answers, so no server is needed. A truncated line is dropped and requested again.
    let again = RemoteModel::new(settings()).with_journal(&journal).unwrap();
    assert_eq!(again.complete(&requests).unwrap(), there);
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, &text[..text.len() - 10]).unwrap();
    let cut = RemoteModel::new(settings()).with_journal(&journal).unwrap();
    let error = cut.complete(&requests).unwrap_err().to_string();
    assert!(error.contains("chat/completions"), "{error}");
}

#[test]
fn past_the_bound_requests_are_turned_away_and_a_patient_client_gets_through() {
    let (_place, folder) = folder();
    let server = serve(&folder, &["--max-num-seqs", "1", "--max-queue", "1"]);
    let settings = |retries| ClientSettings {
        retries,
        concurrency: 6,
        first_pause: Duration::from_millis(20),
        ..ClientSettings::new(&server.url, "tiny")
    };
    let requests: Vec<CompletionRequest> = (0..6)
        .map(|seed| {
            let mut request = asked("likes space", seed, 240);
            request.sampling.ignore_eos = true;
            request
        })
        .collect();
    let error = RemoteModel::new(settings(0)).complete(&requests).unwrap_err().to_string();
    assert!(error.contains("429") && error.contains("limit"), "{error}");
    let answers = RemoteModel::new(settings(60)).complete(&requests).unwrap();
    assert_eq!(answers.len(), 6);
}

/// A client that disconnects frees its slot: with one sequence and no queue, the next request is answered while the first would
/// still be running.
#[test]
fn a_client_that_leaves_makes_room() {
    let (_place, folder) = folder();
    let server = serve(&folder, &["--max-num-seqs", "1", "--max-queue", "0"]);
    let address = server.url.trim_start_matches("http://").trim_end_matches("/v1").to_owned();
    let body = r#"{"model":"tiny","messages":[{"role":"user","content":"x"}],"ignore_eos":true,"stream":true}"#;
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut some = [0; 64];
    stream.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.1 200"));
    drop(stream);
    let patient = ClientSettings {
        retries: 50,
        first_pause: Duration::from_millis(20),
        ..ClientSettings::new(&server.url, "tiny")
    };
    assert_eq!(RemoteModel::new(patient).complete(&[asked("likes", 1, 3)]).unwrap().len(), 1);
}

#[cfg(unix)]
#[test]
fn told_to_stop_it_answers_what_is_open_and_ends() {
    let (_place, folder) = folder();
    let mut server = serve(&folder, &[]);
    let settings = ClientSettings { retries: 0, ..ClientSettings::new(&server.url, "tiny") };
    let (sender, answer) = channel();
    thread::spawn(move || {
        let mut request = asked("likes space", 1, 200);
        request.sampling.ignore_eos = true;
        let _ = sender.send(RemoteModel::new(settings).complete(&[request]));
    });
    thread::sleep(Duration::from_millis(60));
    let told = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let answers = answer.recv_timeout(Duration::from_secs(60)).unwrap();
    // The signal may precede the request; a request in progress is answered completely.
    if let Ok(answers) = answers {
        assert_eq!(answers[0].finish, chat::FinishReason::Length);
    }
    assert!(server.child.wait().unwrap().success());
}

/// Returns the two most frequent tokens of the model's answers to `messages`, which stand for A and B: random weights rarely write
/// the letters themselves.
fn frequent_tokens(model: &LocalModel, messages: &[Message]) -> [String; 2] {
    let request = |seed| CompletionRequest {
        seed,
        top_logprobs: 1,
        ..CompletionRequest::new(messages.to_vec(), Sampling::all(24))
    };
    let requests: Vec<CompletionRequest> = (0..60).map(request).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for answer in model.complete(&requests).unwrap() {
        for text in answer.tokens.iter().map(|t| t.text.replace(' ', "")) {
            if text.is_ascii() && !text.is_empty() && text.trim() == text {
                *counts.entry(text).or_default() += 1;
            }
        }
    }
    let mut frequent: Vec<(usize, String)> = counts.into_iter().map(|(text, count)| (count, text)).collect();
    frequent.sort();
    [frequent.pop().unwrap().1, frequent.pop().unwrap().1]
}

/// A judge that samples gives the same verdicts at an endpoint as in this process, although the server turns requests away, so that
/// they are sent again. What the configuration leaves to the server is the server's.
#[test]
fn a_sampled_judge_is_the_same_at_an_endpoint_and_a_retry_changes_no_draw() {
    let (_place, folder) = folder();
    std::fs::write(folder.join("generation_config.json"), r#"{"do_sample": false}"#).unwrap();
    let server = serve(&folder, &["--max-num-seqs", "2", "--max-queue", "1"]);
    let client = |server_defaults| {
        RemoteModel::new(ClientSettings {
            retries: 60,
            concurrency: 8,
            first_pause: Duration::from_millis(20),
            server_defaults,
            ..ClientSettings::new(&server.url, "tiny")
        })
    };
    let (here, there) = (LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap(), client(Vec::new()));
    let judge = "{{ preference }}: {{ item_a }} or {{ item_b }}?".to_owned();
    let prompts = PromptSet::new("test", &BTreeMap::from([("judge.j2".to_owned(), judge)])).unwrap();
    let question = |i: usize| Question {
        query: None,
        preference: format!("likes space {i}"),
        chosen: "warm stories".into(),
        rejected: "long reports".into(),
    };
    let questions: Vec<Question> = (0..20).map(question).collect();
    let settings = JudgeSettings::new(JudgeMode::Sampled, ItemOrders::Both, "");
    let settings = JudgeSettings { max_new_tokens: 24, no_answer: 0.0, ..settings };
    let messages = Judge::new(&here, &prompts, settings.clone()).unwrap().messages(&questions[0], true).unwrap();
    let settings = JudgeSettings { choices: frequent_tokens(&here, &messages), ..settings };
    let verdicts = |model: &dyn Completer, settings: &JudgeSettings| -> Vec<Verdict> {
        Judge::new(model, &prompts, settings.clone()).unwrap().score(&questions).unwrap()
    };
    let same = |ours: &[Verdict], theirs: &[Verdict]| {
        for (ours, theirs) in ours.iter().flat_map(|v| &v.orders).zip(theirs.iter().flat_map(|v| &v.orders)) {
            assert_eq!((ours.chosen_first, ours.malformed), (theirs.chosen_first, theirs.malformed));
            assert_within!(ours.p_chosen - theirs.p_chosen, 1e-4);
        }
    };
    let drawn = verdicts(&here, &settings);
    assert!(drawn.iter().flat_map(|v| &v.orders).any(|o| !o.malformed), "no question was answered");
    same(&drawn, &verdicts(&there, &settings));
    same(&drawn, &verdicts(&there, &settings));

    let greedy = verdicts(&here, &JudgeSettings { temperature: 0.0, ..settings.clone() });
    assert_ne!(greedy, drawn);
    same(&greedy, &verdicts(&client(vec!["temperature", "top_k", "top_p"]), &settings));
}
