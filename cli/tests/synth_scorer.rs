//! `xplore synth signal` with a scorer that starts from a model on a local test hub.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use assert_cmd::Command;
use chat::{History, jsonl};

/// The files of the repository `me/tiny`.
type Files = BTreeMap<String, Vec<u8>>;

/// Starts a hub with one repository; returns its address.
fn hub(files: Files) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let files = Arc::new(files);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let files = Arc::clone(&files);
            thread::spawn(move || answer(stream.unwrap(), &files));
        }
    });
    address
}

fn answer(mut stream: TcpStream, files: &Files) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = request[0].split(' ').nth(1).unwrap();
    let (status, headers, body) = if path.starts_with("/api/models/me/tiny/revision/") {
        let list: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let list = serde_json::json!({ "siblings": list, "sha": "abc" }).to_string();
        ("200 OK", String::new(), list.into_bytes())
    } else if let Some((name, bytes)) = files.iter().find(|(name, _)| path.ends_with(&format!("/{name}"))) {
        let range =
            request.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let range = range.unwrap_or_else(|| "0-".into());
        let (from, to) = range.split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
        let place = format!("{from}-{}/{}", to - 1, bytes.len());
        let headers = format!("x-repo-commit: abc\r\netag: \"{name}-tag\"\r\ncontent-range: bytes {place}\r\n");
        ("206 Partial Content", headers, bytes[from..to].to_vec())
    } else {
        ("404 Not Found", String::new(), Vec::new())
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
    let _ = stream.write_all(&body);
}

fn files_of(folder: &Path) -> Files {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).filter(|e| e.file_type().unwrap().is_file());
    files.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// The weights are downloaded by the step itself, and are part of what tells a finished scorer from another one.
#[test]
fn a_scorer_from_a_model_on_the_hub_is_trained_once() {
    let place = fixtures::policy::model_and_rows();
    let address = hub(files_of(&place.path().join("model")));
    let of_row = |row: chat::RlRow| History { uid: row.uid, interactions: row.history, ..History::default() };
    let histories: Vec<History> = fixtures::policy::rows(4).into_iter().map(of_row).collect();
    jsonl::write(&place.path().join("in.jsonl"), &histories).unwrap();
    let config = "threads = 1\nsteps = ['signal']\n[scorer]\ntrain.max_steps = 2\ntrain.batch_size = 2\nmodel.path = 'me/tiny'\n\
                  model.dtype = 'fp32'\nmodel.device = 'cpu'\n";
    fs::write(place.path().join("synth.toml"), config).unwrap();
    let signal = |more: &[&str]| {
        let mut command = Command::cargo_bin("xplore").unwrap();
        command.current_dir(place.path()).env("HF_ENDPOINT", &address).env("HF_HUB_CACHE", place.path().join("cache"));
        command.env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
        let output =
            command.args(["synth", "signal", "--config", "synth.toml", "--input", "in.jsonl"]).args(more).output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(said.contains("choices of 4 users scored"), "{said}");
        let weights = place.path().join("runs/synth/signal/scorer/model/model.safetensors");
        (said, fs::metadata(weights).unwrap().modified().unwrap())
    };
    let (_, trained) = signal(&[]);
    let (said, again) = signal(&["--force"]);
    assert!(said.contains("the scorer is trained already"), "{said}");
    assert_eq!(again, trained);
}
