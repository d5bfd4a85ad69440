//! Terms at a URL.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use configs::rl::{ExternalConfig, ExternalSource};
use rewards::ExternalTerm;
use serde_json::{Value, json};

use crate::fixture::{Bench, ask, example, metric, mine, python, says};

/// Answers the requests after the handshake with status and body, in the order in which they come.
type Handler = Box<dyn Fn(usize, &Value) -> (u16, String) + Send>;

/// Starts a server; returns its URL and the bodies that it got.
fn server(handler: Handler) -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/score", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    thread::spawn(move || {
        let mut count = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let body = read(&stream);
            let (status, text) = match body.get("responses") {
                None => (200, json!({"xplore_reward": 1}).to_string()),
                Some(_) => {
                    count += 1;
                    handler(count - 1, &body)
                }
            };
            seen.lock().unwrap().push(body);
            // The client may have given up.
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
    });
    (url, bodies)
}

fn read(stream: &TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn scores(request: &Value, score: f64) -> String {
    let count = request["responses"].as_array().unwrap().len();
    json!({"id": request["id"], "scores": vec![score; count]}).to_string()
}

fn at(url: &str) -> ExternalConfig {
    ExternalConfig::new(ExternalSource::Url(url.into()))
}

fn refusal(term: &ExternalTerm) -> String {
    ask(term, 0, 2).unwrap_err().to_string()
}

#[test]
fn requests_are_posted_after_a_handshake() {
    let (url, bodies) = server(Box::new(|_, request| (200, scores(request, 0.5))));
    let term = ExternalTerm::new("mine", &json!({"a": 1}), ExternalConfig { batch_size: 2, ..at(&url) });
    term.start().unwrap();
    assert_eq!(ask(&term, 4, 4).unwrap().scores, [0.5; 4]);
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies[0], json!({"xplore_reward": 1, "term": "mine", "params": {"a": 1}}));
    assert_eq!(bodies.len(), 3);
    for (index, body) in bodies[1..].iter().enumerate() {
        assert_eq!((&body["id"], &body["step"], &body["params"]), (&json!(index), &json!(4), &json!({"a": 1})));
        assert_eq!(body["responses"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn an_overloaded_endpoint_is_asked_again() {
    let (url, _) = server(Box::new(|count, request| match count {
        0 => (503, "busy".into()),
        _ => (200, scores(request, 1.0)),
    }));
    let told = ask(&mine(at(&url)), 0, 2).unwrap();
    assert_eq!((&told.scores[..], metric(&told, "retries")), (&[1.0; 2][..], Some(1.0)));
}

#[test]
fn failures_are_told_or_have_the_fallback() {
    let (url, _) = server(Box::new(|_, _| (503, "busy".into())));
    let error = refusal(&mine(ExternalConfig { retries: 0, ..at(&url) }));
    says(&error, &[&format!("reward term `mine` ({url}): step 1: it returned status 503: busy")]);
    let (url, _) = server(Box::new(|_, _| (404, "no such path".into())));
    says(&refusal(&mine(at(&url))), &["it returned status 404: no such path"]);
    let told = ask(&mine(ExternalConfig { fallback: Some(0.5), ..at(&url) }), 0, 2).unwrap();
    assert_eq!((&told.scores[..], metric(&told, "retries")), (&[0.5; 2][..], Some(0.0)));
    let (url, _) = server(Box::new(|_, _| (200, "<html>".into())));
    says(&refusal(&mine(ExternalConfig { retries: 0, ..at(&url) })), &["got `<html>`"]);
    let (url, _) = server(Box::new(|_, request| (200, json!({"id": request["id"], "scores": [1]}).to_string())));
    says(&refusal(&mine(at(&url))), &["1 scores for 2 responses"]);
}

#[test]
fn an_endpoint_that_hangs_or_does_not_exist_has_a_limit() {
    let begin = Instant::now();
    let (url, _) = server(Box::new(|_, _| {
        thread::sleep(Duration::from_secs(3));
        (200, String::new())
    }));
    let slow = ExternalConfig { timeout_seconds: 0.5, retries: 0, ..at(&url) };
    says(&refusal(&mine(slow)), &["it did not answer within 0.5 s"]);
    // Nothing listens at a port that was just closed.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("http://127.0.0.1:{port}");
    let error = mine(ExternalConfig { start_timeout_seconds: 1.0, ..at(&nobody) }).start().unwrap_err().to_string();
    says(&error, &[&format!("reward term `mine` ({nobody}): the handshake failed: ")]);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_helper_serves_a_term() {
    let bench = Bench::new();
    fs::copy(example().join("xplore_reward.py"), bench.path("xplore_reward.py")).unwrap();
    let text = "from xplore_reward import serve\n\ndef score(batch):\n    if batch['step'] == 9:\n        raise KeyError('topic')\n    \
                return [len(r['summary']) for r in batch['responses']], {'step': batch['step']}\n\nserve(score, port=0)\n";
    bench.command(text);
    let mut command = Command::new(python());
    let child = command.arg(bench.path("term.py")).stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let mut url = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let term = mine(ExternalConfig { workers: 3, batch_size: 2, ..at(url.trim()) });
    term.start().unwrap();
    let told = ask(&term, 3, 8).unwrap();
    assert_eq!((&told.scores[..], metric(&told, "step")), (&[2.0; 8][..], Some(3.0)));
    says(&ask(&term, 9, 8).unwrap_err().to_string(), &["the term reported an error: Traceback", "KeyError: 'topic'"]);
}
