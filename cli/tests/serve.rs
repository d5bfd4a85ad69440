//! `xplore serve`, queried by the official OpenAI client and by our own remote model.

mod serving;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use chat::{Completer, CompletionRequest, Message, Sampling};
use fixtures::tiny_model::folder;
use lm::LocalModel;
use remote::{ClientSettings, RemoteModel};
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
