//! Downloads from a local test hub.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use hub::{HubError, HubSettings, data, dataset, description, model};

const FILES: [(&str, &str); 10] = [
    ("config.json", "{\"model_type\": \"qwen3\"}"),
    ("tokenizer.json", "{}"),
    ("tokenizer_config.json", "{}"),
    ("chat_template.jinja", "hi"),
    ("model.safetensors", "0123456789"),
    ("pytorch_model.bin", "left out"),
    ("onnx/config.json", "left out"),
    ("parts/rows.jsonl", "{}\n"),
    ("data/train-1.jsonl", "{\"a\": 1}\n"),
    ("data/train-0.jsonl", "{\"a\": 0}\n"),
];

/// A hub with one repository, `me/tiny`, that records its requests.
struct Hub {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

fn hub() -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&asked);
    thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &notes)));
    Hub { address, asked }
}

fn answer(mut stream: TcpStream, notes: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut request = vec![];
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        request.push(line);
    }
    let path = request[0].split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        let found = request.iter().find_map(|l| l.to_lowercase().strip_prefix(&format!("{name}: ")).map(str::to_owned));
        found.unwrap_or_default()
    };
    notes.lock().unwrap().push(format!("{path} {}", header("authorization")));
    let lists = ["/api/models/me/tiny/revision/", "/api/datasets/me/tiny/revision/"];
    let (status, headers, body) = if lists.iter().any(|list| path.starts_with(list)) {
        let list: Vec<_> = FILES.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
        ("200 OK", String::new(), serde_json::json!({ "siblings": list, "sha": "abc" }).to_string())
    } else if let Some((name, text)) = FILES.iter().find(|(name, _)| path.ends_with(&format!("/{name}"))) {
        let range = header("range");
        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let to = to.parse().map_or(text.len(), |end: usize| (end + 1).min(text.len()));
        let headers = format!(
            "x-repo-commit: abc\r\netag: \"{name}-tag\"\r\ncontent-range: bytes {from}-{}/{}\r\n",
            to - 1,
            text.len()
        );
        ("206 Partial Content", headers, text[from..to].to_owned())
    } else {
        ("404 Not Found", String::new(), String::new())
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}");
}

fn settings(hub: &Hub, cache: &Path) -> HubSettings {
    HubSettings { endpoint: hub.address.clone(), cache: cache.into(), token: None, offline: false, progress: false }
}

#[test]
fn a_repository_is_downloaded_once_and_then_taken_from_the_cache() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let online = HubSettings { token: Some("hf_secret".into()), ..settings(&hub, cache.path()) };
    let folder = model("me/tiny@v1", &online).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    let expected =
        ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, expected);
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).unwrap(), "0123456789");
    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert!(asked.iter().any(|a| a.starts_with("/me/tiny/resolve/v1/")), "{asked:?}");
    assert!(asked.iter().all(|a| a.ends_with("bearer hf_secret")), "{asked:?}");

    assert_eq!(model("me/tiny@v1", &online).unwrap(), folder);
    let again = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert!(again.iter().all(|a| a.starts_with("/api/")), "files were asked for again: {again:?}");
    assert_eq!(model("me/tiny@v1", &HubSettings { offline: true, ..online }).unwrap(), folder);
    assert_eq!(hub.asked.lock().unwrap().len(), 0, "offline is offline");
}

#[test]
fn a_file_of_data_is_downloaded_once_and_then_taken_from_the_cache() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, cache.path());
    let name = Path::new("hf://datasets/me/tiny@v1/parts/rows.jsonl");
    let file = data(name, &online).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{}\n");
    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert!(asked.iter().all(|a| a.starts_with("/datasets/me/tiny/resolve/v1/parts/rows.jsonl")), "{asked:?}");

    assert_eq!(data(name, &online).unwrap(), file);
    let offline = HubSettings { offline: true, ..online.clone() };
    assert_eq!(data(name, &offline).unwrap(), file);
    assert_eq!(data(Path::new("not/there.jsonl"), &online).unwrap(), Path::new("not/there.jsonl"));
    assert_eq!(hub.asked.lock().unwrap().len(), 0, "what is in the cache, or local, asks nobody");

    let error = |given: &str, settings: &HubSettings| data(Path::new(given), settings).unwrap_err();
    assert!(matches!(error("hf://me/tiny/rows.jsonl", &online), HubError::NotAFile { .. }));
    assert!(matches!(error("hf://datasets/me/tiny", &online), HubError::NotAFile { .. }));
    assert!(matches!(error("hf://datasets/me/tiny/other.jsonl", &offline), HubError::NotCached { .. }));
    assert!(error("hf://datasets/me/tiny/other.jsonl", &online).to_string().contains("404"));
}

#[test]
fn a_data_set_is_its_files_to_train_on() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, cache.path());
    let name = Path::new("hf://datasets/me/tiny@v1");
    let files = dataset(name, &online).unwrap();
    let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert_eq!(texts, ["{\"a\": 0}\n", "{\"a\": 1}\n"], "those with the word train, by name");
    let asked = std::mem::take(&mut *hub.asked.lock().unwrap());
    assert!(asked.iter().any(|a| a.starts_with("/datasets/me/tiny/resolve/v1/data/train-0.jsonl")), "{asked:?}");

    let offline = HubSettings { offline: true, ..online.clone() };
    assert_eq!(dataset(name, &offline).unwrap(), files);
    let one = Path::new("hf://datasets/me/tiny@v1/data/train-1.jsonl");
    assert_eq!(dataset(one, &offline).unwrap(), files[1..]);
    assert_eq!(dataset(Path::new("not/there.jsonl"), &online).unwrap(), [Path::new("not/there.jsonl")]);
    assert_eq!(hub.asked.lock().unwrap().len(), 0, "offline is offline, and local is local");
    let other = Path::new("hf://datasets/me/other");
    assert!(matches!(dataset(other, &offline).unwrap_err(), HubError::NotCached { .. }));
    assert!(dataset(other, &online).unwrap_err().to_string().contains("404"));
}

#[test]
fn a_folder_that_exists_asks_nobody() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let folder = cache.path().to_str().unwrap();
    assert_eq!(model(folder, &settings(&hub, cache.path())).unwrap(), cache.path());
    assert_eq!(hub.asked.lock().unwrap().len(), 0);
}

#[test]
fn a_run_asks_nobody_and_a_model_beside_its_id_keeps_the_id() {
    let (hub, place) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, place.path());
    let checkpoint = place.path().join("runs/sft/checkpoints/step-000003");
    fs::create_dir_all(&checkpoint).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::write(checkpoint.join(file), "").unwrap();
    }
    let run = place.path().join("runs/sft").display().to_string();
    for given in [run.clone(), format!("{run}@latest"), format!("{run}@3")] {
        assert_eq!(model(&given, &online).unwrap(), checkpoint, "{given}");
        assert_eq!(description(&given, &online).unwrap(), checkpoint, "{given}");
    }
    assert!(matches!(model(&format!("{run}@4"), &online).unwrap_err(), HubError::NoCheckpoint { .. }));
    assert!(matches!(description("runs/none", &online).unwrap_err(), HubError::NoCheckpoint { .. }));
    assert_eq!(hub.asked.lock().unwrap().len(), 0);
    assert!(model("me/tiny@v1", &online).unwrap().join("config.json").is_file());
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, cache.path());
    let offline = HubSettings { offline: true, ..online.clone() };
    let error = |given: &str, settings: &HubSettings| model(given, settings).unwrap_err();
    assert!(matches!(error("no/such/folder", &online), HubError::NoSuchPlace { .. }));
    assert!(matches!(error("me/tiny", &offline), HubError::NotCached { .. }));
    let missing = error("me/other", &online);
    assert!(!missing.is_offline() && !error("no/such/folder", &online).is_offline());
    assert!(missing.to_string().contains("404") && missing.to_string().contains("spelling"), "{missing}");
    let nobody = HubSettings { endpoint: "http://127.0.0.1:1".into(), ..online };
    assert!(error("me/tiny", &nobody).to_string().contains("HF_HUB_OFFLINE"));
    assert!(error("me/tiny", &nobody).is_offline() && error("me/tiny", &offline).is_offline());
}
