//! A scripted teacher and a scripted verifier behind an OpenAI-compatible endpoint. Users of the test like opera.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value as Json, json};

/// A request, and whether it was answered.
#[derive(Clone)]
pub struct Asked {
    pub model: String,
    pub body: String,
    pub answered: bool,
}

/// A running server.
pub struct Scripted {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    left: Arc<AnswersLeft>,
}

/// The numbers of requests to each model that are still answered.
struct AnswersLeft {
    teacher: AtomicUsize,
    verifier: AtomicUsize,
}

impl Scripted {
    /// Starts the server on a port that the system selects.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let all = || AtomicUsize::new(usize::MAX);
        let left = Arc::new(AnswersLeft { teacher: all(), verifier: all() });
        let server = Self { url, asked: Arc::clone(&asked), left: Arc::clone(&left) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, left) = (Arc::clone(&asked), Arc::clone(&left));
                thread::spawn(move || serve(&stream.unwrap(), &asked, &left));
            }
        });
        server
    }

    /// Returns the requests to a model so far.
    pub fn asked(&self, model: &str) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.model == model).cloned().collect()
    }

    /// Refuses every request to the teacher after `count` further ones.
    pub fn refuse_after(&self, count: usize) {
        self.left.teacher.store(count, Ordering::SeqCst);
    }

    /// Refuses every request to the verifier after `count` further ones.
    pub fn refuse_verifier_after(&self, count: usize) {
        self.left.verifier.store(count, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, seen: &Mutex<Vec<Asked>>, left: &AnswersLeft) {
    let body = read(stream);
    let request: Json = serde_json::from_str(&body).unwrap();
    let model = request["model"].as_str().unwrap().to_owned();
    let one_less = |left: usize| left.checked_sub(1);
    let left = if model == "teacher" { &left.teacher } else { &left.verifier };
    let answered = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
    let (status, reply) = match answered {
        true => (200, answer(&model, &prompt(&request))),
        false => (400, json!({"error": {"message": format!("the {model} has left")}})),
    };
    seen.lock().unwrap().push(Asked { model, body, answered });
    let text = reply.to_string();
    let mut stream = stream;
    // The client may have given up.
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len());
}

fn read(stream: &TcpStream) -> String {
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
    String::from_utf8(body).unwrap()
}

/// Returns the last message of the user.
fn prompt(request: &Json) -> String {
    let messages = request["messages"].as_array().unwrap();
    let last = messages.iter().rfind(|message| message["role"] == "user").unwrap();
    last["content"].as_str().unwrap().to_owned()
}

fn answer(model: &str, prompt: &str) -> Json {
    let merges = prompt.contains("|PREFERENCE|") || prompt.starts_with("merge: ");
    match (model, merges) {
        ("teacher", true) => written("Opera each time. |PREFERENCE| Likes opera above all sports."),
        ("teacher", false) => written("<think>\nThey pick opera.\n</think>\n\nLikes opera above all sports."),
        _ => letter(probability_of_a(prompt)),
    }
}

/// Judges a prompt of the set `plain`: an item about opera is likely if what is known about the user mentions opera.
fn probability_of_a(prompt: &str) -> f64 {
    let (known, items) = prompt.split_once("# Item A").unwrap();
    let (a, b) = items.split_once("# Item B").unwrap();
    let sure = if known.contains("opera") { 0.95 } else { 0.6 };
    match (a.contains("opera"), b.contains("opera")) {
        (true, false) => sure,
        (false, true) => 1.0 - sure,
        // Items of other topics: the first one, slightly.
        _ => 0.55,
    }
}

fn written(text: &str) -> Json {
    json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    })
}

fn letter(p: f64) -> Json {
    let (a, b) = (json!({"token": "A", "logprob": p.ln()}), json!({"token": "B", "logprob": (1.0 - p).ln()}));
    let chosen = if p >= 0.5 { &a } else { &b };
    let token = json!({"token": chosen["token"], "logprob": chosen["logprob"], "top_logprobs": [a, b]});
    json!({
        "choices": [{
            "message": {"role": "assistant", "content": chosen["token"]},
            "finish_reason": "length",
            "logprobs": {"content": [token]},
        }],
        "usage": {"prompt_tokens": 50, "completion_tokens": 1},
    })
}
