//! An endpoint with a scripted teacher and verifier, and with failures. Every answer is a function of the request.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};

/// What a request gets in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A status other than 200.
    Status(u16),
    /// A connection that is closed before the response.
    Closed,
    /// A response that is cut within the body.
    Cut,
    /// A page in place of JSON.
    Page,
    /// JSON without an answer.
    NoChoices,
    /// A body that does not end before the client gives up.
    Slow,
}

/// Every fault that passes and costs no time.
pub const PASSING: [Fault; 6] =
    [Fault::Status(429), Fault::Status(500), Fault::Closed, Fault::Cut, Fault::Page, Fault::NoChoices];

/// Returns the fault of a request, given its body and how often it came before.
type Faults = Box<dyn Fn(&str, usize) -> Option<Fault> + Send + Sync>;

/// A running server.
pub struct Server {
    pub url: String,
    state: Arc<State>,
}

struct State {
    faults: Faults,
    delay: Duration,
    /// How often each request came, and how often it was answered.
    seen: Mutex<HashMap<String, (usize, usize)>>,
    /// The number of answers before the server is down.
    left: AtomicUsize,
    up: AtomicBool,
    open: AtomicUsize,
    most_open: AtomicUsize,
    gate: Mutex<Gate>,
    moved: Condvar,
}

/// Withholds answers.
struct Gate {
    /// The number of requests that may pass.
    left: usize,
    /// Increases when those that wait are given up.
    round: usize,
}

impl State {
    /// Waits at the gate. Returns whether the request is to be answered.
    fn pass(&self) -> bool {
        let mut gate = self.gate.lock().unwrap();
        let round = gate.round;
        while gate.left == 0 {
            gate = self.moved.wait(gate).unwrap();
            if gate.round != round {
                return false;
            }
        }
        gate.left -= 1;
        true
    }
}

impl Server {
    /// Starts a server that answers each request after `delay`.
    pub fn start(delay: Duration, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(State {
            faults,
            delay,
            seen: Mutex::default(),
            left: AtomicUsize::new(usize::MAX),
            up: AtomicBool::new(true),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            gate: Mutex::new(Gate { left: usize::MAX, round: 0 }),
            moved: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream.unwrap(), &state));
            }
        });
        Self { url, state }
    }

    /// Starts a server without faults.
    pub fn sound() -> Self {
        Self::start(Duration::from_millis(2), Box::new(|_, _| None))
    }

    /// Returns how often each request was answered.
    pub fn answered(&self) -> Vec<usize> {
        self.state.seen.lock().unwrap().values().map(|&(_, answered)| answered).collect()
    }

    /// Returns the number of answers.
    pub fn answers(&self) -> usize {
        self.answered().iter().sum()
    }

    /// Returns the number of requests to a model.
    pub fn requests_to(&self, model: &str) -> usize {
        let seen = self.state.seen.lock().unwrap();
        let of_model = |body: &str| serde_json::from_str::<Json>(body).is_ok_and(|request| request["model"] == model);
        seen.iter().filter(|(body, _)| of_model(body)).map(|(_, &(came, _))| came).sum()
    }

    /// Returns the number of requests.
    pub fn requests(&self) -> usize {
        self.state.seen.lock().unwrap().values().map(|&(came, _)| came).sum()
    }

    /// Returns the largest number of requests in flight since the last call.
    pub fn most_in_flight(&self) -> usize {
        self.state.most_open.swap(0, Ordering::SeqCst)
    }

    /// Returns the number of requests that are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Withholds the answers after `answers` more.
    pub fn hold_after(&self, answers: usize) {
        self.state.gate.lock().unwrap().left = answers;
    }

    /// Gives the withheld answers.
    pub fn release(&self) {
        self.state.gate.lock().unwrap().left = usize::MAX;
        self.state.moved.notify_all();
    }

    /// Gives up the withheld answers, whose client is gone, and answers what comes next.
    pub fn give_up(&self) {
        self.state.gate.lock().unwrap().round += 1;
        self.release();
    }

    /// Goes down after `answers` more answers.
    pub fn die_after(&self, answers: usize) {
        self.state.left.store(answers, Ordering::SeqCst);
    }

    /// Comes up again.
    pub fn revive(&self) {
        self.state.left.store(usize::MAX, Ordering::SeqCst);
        self.state.up.store(true, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, state: &State) {
    let Some(body) = read(stream) else { return };
    let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
    state.most_open.fetch_max(open, Ordering::SeqCst);
    let before = {
        let mut seen = state.seen.lock().unwrap();
        let (came, _) = seen.entry(body.clone()).or_default();
        *came += 1;
        *came - 1
    };
    thread::sleep(state.delay);
    let passes = state.pass();
    // Before the response, after which the client may send its next request.
    state.open.fetch_sub(1, Ordering::SeqCst);
    if passes && state.up.load(Ordering::SeqCst) {
        match (state.faults)(&body, before) {
            Some(fault) => fail(stream, fault),
            None => succeed(stream, state, &body),
        }
    }
}

fn succeed(stream: &TcpStream, state: &State, body: &str) {
    {
        // One at a time, so that the server is down after the given number.
        let mut seen = state.seen.lock().unwrap();
        let left = state.left.load(Ordering::SeqCst);
        if left == 0 {
            state.up.store(false, Ordering::SeqCst);
            return;
        }
        state.left.store(left - 1, Ordering::SeqCst);
        seen.entry(body.to_owned()).or_default().1 += 1;
    }
    send(stream, 200, &answer(body), None);
}

fn fail(stream: &TcpStream, fault: Fault) {
    let text = json!({ "choices": [], "padding": "x".repeat(2000) }).to_string();
    match fault {
        Fault::Status(status) => send(stream, status, "{\"error\": {\"message\": \"out of order\"}}", None),
        Fault::Closed => {}
        Fault::Cut => send(stream, 200, &text, Some(text.len() / 2)),
        Fault::Page => send(stream, 200, "<html>busy</html>", None),
        Fault::NoChoices => send(stream, 200, "{\"error\": {\"message\": \"no capacity\"}}", None),
        Fault::Slow => {
            send(stream, 200, &text, Some(text.len() / 2));
            // Until the client closes the connection.
            let mut rest = stream;
            let _ = io::copy(&mut rest, &mut io::sink());
        }
    }
}

/// Sends a response, or the beginning of its body. The client may have given up.
fn send(mut stream: &TcpStream, status: u16, text: &str, part: Option<usize>) {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
    let _ = stream.write_all((head + &text[..part.unwrap_or(text.len())]).as_bytes());
    let _ = stream.flush();
}

/// Reads a request; `None` if the client left.
fn read(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

/// Hashes a text with FNV-1a.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns the response to a request: most candidates are well-formed, and most of them predict their target.
fn answer(body: &str) -> String {
    let request: Json = serde_json::from_str(body).unwrap();
    let prompt = request["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap();
    // The low bits of the hash are those of the last bytes.
    let h = hash(body) >> 20;
    let text = match (request["model"].as_str().unwrap(), prompt.split('\n').next().unwrap()) {
        ("teacher", "TEACH") if h.is_multiple_of(20) => "no tags".to_owned(),
        ("teacher", "TEACH") => format!("<think>\nreason {h:x}\n</think>\n\nlikes good {h:x}"),
        ("teacher", "MERGE") => format!("reasons {h:x} |MARK| likes good things {h:x}"),
        ("verifier", "JUDGE") => {
            let right = if prompt.contains("\nA good") { ["Item A", "Item B"] } else { ["Item B", "Item A"] };
            match h % 24 {
                0 => "I cannot say".to_owned(),
                1 | 2 => json!({ "selection": right[1] }).to_string(),
                _ => json!({ "selection": right[0] }).to_string(),
            }
        }
        other => panic!("{other:?} was not expected"),
    };
    let choice = json!({ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
    json!({ "choices": [choice], "usage": { "prompt_tokens": 10, "completion_tokens": 5 } }).to_string()
}
