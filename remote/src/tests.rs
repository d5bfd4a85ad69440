use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use chat::{Message, Sampling};
use serde_json::json;

use super::*;

/// Returns status and body of the response to a request, given the number of those before; `None` closes the connection.
type Respond = Box<dyn Fn(usize) -> Option<(u16, String)> + Send + Sync>;

/// Starts a server that responds to one request at a time. Returns its address and the number of requests.
fn serve(respond: Respond) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (came, counter) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let shared = Arc::clone(&came);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            if !read(&stream) {
                continue;
            }
            shared.fetch_add(1, Ordering::SeqCst);
            if let Some((status, body)) = respond(counter.fetch_add(1, Ordering::SeqCst)) {
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes());
            }
        }
    });
    (url, came)
}

/// Reads a request; false if the client left.
fn read(stream: &TcpStream) -> bool {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if line.trim().is_empty() {
                return reader.read_exact(&mut vec![0; length]).is_ok();
            }
            let value = line.to_ascii_lowercase().strip_prefix("content-length:").map(|value| value.trim().to_owned());
            length = value.map_or(length, |value| value.parse().unwrap());
        } else {
            return false;
        }
    }
}

fn answer() -> Option<(u16, String)> {
    let choice = json!({ "message": { "content": "yes" }, "finish_reason": "stop" });
    Some((200, json!({ "choices": [choice], "usage": { "prompt_tokens": 10, "completion_tokens": 5 } }).to_string()))
}

fn client(url: &str) -> RemoteModel {
    RemoteModel::new(ClientSettings { concurrency: 1, retries: 0, ..ClientSettings::new(url, "tiny") })
}

fn requests(count: usize) -> Vec<CompletionRequest> {
    let request = |seed: usize| CompletionRequest {
        seed: seed as u64,
        ..CompletionRequest::new(vec![Message::user("hi")], Sampling::greedy(9))
    };
    (0..count).map(request).collect()
}

#[test]
fn what_cannot_succeed_is_not_sent_again() {
    let settings = ClientSettings { first_pause: Duration::from_secs(60), ..ClientSettings::new("no scheme", "tiny") };
    let error = RemoteModel::new(settings).complete(&requests(1)).unwrap_err();
    assert!(matches!(&error, CompleterError::Model(message) if message.contains("no scheme")), "{error}");
    assert_eq!(Cause::of_transport(&ureq::Error::BadUri("no scheme".into())), Cause::Endpoint);
    assert_eq!(Cause::of_transport(&ureq::Error::ConnectionFailed), Cause::Passing);
    let statuses = [400, 401, 403, 404, 422, 429, 500, 503].map(Cause::of_status);
    let expected = [
        Cause::Request,
        Cause::Endpoint,
        Cause::Request,
        Cause::Endpoint,
        Cause::Request,
        Cause::Passing,
        Cause::Passing,
        Cause::Passing,
    ];
    assert_eq!(statuses, expected);
}

#[test]
fn an_endpoint_that_is_down_ends_the_call_also_if_the_call_is_small() {
    let (url, came) = serve(Box::new(|_| None));
    let error = client(&url).complete_each(&requests(5)).unwrap_err().to_string();
    assert!(error.starts_with("5 requests failed one after another, so the endpoint seems down"), "{error}");
    assert_eq!(came.load(Ordering::SeqCst), 5);
    // Of a large call, only the first requests are sent.
    assert!(client(&url).complete_each(&requests(100)).is_err());
    assert_eq!(came.load(Ordering::SeqCst), 5 + 8);
}

#[test]
fn an_outage_is_seen_over_several_calls() {
    let (url, _) = serve(Box::new(|before: usize| if before < 3 { answer() } else { None }));
    let client = client(&url);
    assert!(client.complete_each(&requests(3)).unwrap().iter().all(Result::is_ok));
    for _ in 0..3 {
        assert!(client.complete_each(&requests(1)).unwrap()[0].is_err());
    }
    let error = client.complete_each(&requests(1)).unwrap_err().to_string();
    assert!(error.contains("seems down"), "{error}");
}

#[test]
fn refused_requests_are_no_outage_and_a_wrong_key_ends_the_call_at_once() {
    let (url, came) = serve(Box::new(|_| Some((400, "{\"message\":\"too long\"}".into()))));
    let answers = client(&url).complete_each(&requests(20)).unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|message| message.contains("too long"))));
    assert_eq!(came.load(Ordering::SeqCst), 20);
    let (url, came) = serve(Box::new(|_| Some((401, "{\"message\":\"invalid key\"}".into()))));
    let error = client(&url).complete_each(&requests(20)).unwrap_err();
    assert!(matches!(&error, CompleterError::Model(message) if message.contains("invalid key")), "{error}");
    assert_eq!(came.load(Ordering::SeqCst), 1);
}

#[test]
fn a_single_failure_between_answers_takes_its_place_only() {
    let (url, _) = serve(Box::new(|before: usize| if before.is_multiple_of(2) { answer() } else { None }));
    let answers = client(&url).complete_each(&requests(20)).unwrap();
    assert!(answers.iter().enumerate().all(|(i, answer)| answer.is_ok() == i.is_multiple_of(2)));
}

#[test]
fn nothing_is_sent_once_a_stop_was_requested() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (url, came) = serve(Box::new(|before: usize| {
        STOP.store(before == 2, Ordering::SeqCst);
        answer()
    }));
    let client = client(&url).stop_if(|| STOP.load(Ordering::SeqCst));
    for answers in [client.complete(&requests(9)).map(drop), client.complete_each(&requests(9)).map(drop)] {
        assert_eq!(answers.unwrap_err().to_string(), "interrupted");
    }
    // The third request was in flight, and was answered.
    assert_eq!((came.load(Ordering::SeqCst), client.journal_stats().sent), (3, 3));
}

#[test]
fn a_caller_that_cannot_keep_an_answer_ends_the_call() {
    let (url, _) = serve(Box::new(|_| answer()));
    let client = RemoteModel::new(ClientSettings { concurrency: 4, retries: 0, ..ClientSettings::new(&url, "tiny") });
    let mut done = Vec::new();
    let mut keep = |index: usize, completion: &Completion| {
        done.push((index, completion.text.clone()));
        if done.len() == 3 { Err(CompleterError::Model("the disk is full".into())) } else { Ok(()) }
    };
    let error = client.complete_with(&requests(40), Failures::Keep, &mut keep).unwrap_err();
    assert_eq!(error.to_string(), "the disk is full");
    assert!(done.len() == 3 && done.iter().all(|(index, text)| *index < 40 && text == "yes"), "{done:?}");
}

#[test]
fn an_answer_that_cannot_be_used_is_paid_for() {
    let (url, _) = serve(Box::new(|_| {
        let choice = json!({ "message": { "content": null }, "finish_reason": "stop" });
        let body = json!({ "choices": [choice], "usage": { "prompt_tokens": 10, "completion_tokens": 5 } });
        Some((200, body.to_string()))
    }));
    let client = client(&url);
    assert!(client.complete(&requests(1)).is_err());
    assert_eq!(client.usage(), Usage { prompt_tokens: 10, completion_tokens: 5 });
    assert_eq!(client.journal_stats().sent, 0);
}
