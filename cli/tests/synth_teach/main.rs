//! `xplore synth teach` against a server that fails: the rows are those of an undisturbed run, and nothing is asked twice.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chat::Draw;
use serde_json::{Value as Json, json};

use crate::server::{Fault, PASSING, Server, hash};

const FILES: [&str; 2] = ["sft.jsonl", "users.jsonl"];

/// A folder with scored histories, prompts and configurations.
struct Bench {
    folder: tempfile::TempDir,
}

/// What differs between the runs of a test.
#[derive(Clone, Copy)]
struct Run<'a> {
    name: &'a str,
    concurrency: usize,
    retries: usize,
    on_error: &'a str,
    users_per_batch: usize,
    timeout_seconds: usize,
}

const RUN: Run<'_> =
    Run { name: "plain", concurrency: 16, retries: 8, on_error: "stop", users_per_batch: 64, timeout_seconds: 120 };

impl Bench {
    /// Creates the folder with `users` users. Every fifth history is too short.
    fn new(users: usize) -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        let user = |user: usize| {
            let n = if user % 5 == 4 { 8 } else { 15 };
            let interaction = |i| json!({"chosen": format!("good {user}-{i}"), "rejected": format!("bad {user}-{i}")});
            let signal = json!({"logprob1": -0.01, "logprob2": -0.7, "signal": 0.69});
            let interactions: Vec<Json> = (0..n).map(interaction).collect();
            json!({"uid": format!("u{user}"), "interactions": interactions, "signals": vec![signal; n]}).to_string()
                + "\n"
        };
        bench.write("scored.jsonl", &(0..users).map(user).collect::<String>());
        let items = "{% for i in interactions %}\n{{ i.chosen }} > {{ i.rejected }}\n{% endfor %}\n";
        bench.write("prompts/summarize.j2", &format!("SUMMARIZE\n{{{{ past }}}}\n{items}"));
        let two = "A {{ item_a }}\nB {{ item_b }}\n";
        bench.write("prompts/teach.j2", &format!("TEACH\n{{{{ past }}}}\n{items}{two}"));
        bench.write("prompts/judge.j2", &format!("JUDGE\n{{{{ preference }}}}\n{two}"));
        let merge = "MERGE\n{% for c in candidates %}\n{{ c.reasoning }} {{ c.preference }}\n{% endfor %}\n";
        bench.write("prompts/merge.j2", merge);
        bench
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Returns the command of a run, whose configuration it writes.
    fn command(&self, server: &Server, run: Run<'_>, more: &[&str]) -> Command {
        let place = self.folder.path().display();
        let Run { name, concurrency, retries, on_error, users_per_batch, timeout_seconds } = run;
        let endpoint = |model: &str| {
            format!(
                "[{model}.endpoint]\nurl = '{}'\nmodel = '{model}'\nconcurrency = {concurrency}\nretries = {retries}\n\
                 timeout_seconds = {timeout_seconds}.0\n",
                server.url
            )
        };
        let text = format!(
            "name = '{name}'\nout = '{place}/runs'\nthreads = 1\nsteps = ['teach']\nprompts = '{place}/prompts'\n[teach]\n\
             verify = 'answer'\nseparator = '|MARK|'\non_error = '{on_error}'\nusers_per_batch = {users_per_batch}\n\
             verifier_prices = {{ prompt = 1.0 }}\n{}[teacher.prices]\nprompt = 2.0\ncompletion = 10.0\n[verifier]\n\
             orders = 'one'\nprompts = '{place}/prompts'\n{}",
            endpoint("teacher"),
            endpoint("verifier"),
        );
        self.write(&format!("{name}.toml"), &text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_xplore"));
        command.current_dir(self.folder.path()).args(["synth", "teach", "--input", "scored.jsonl", "--config"]);
        command.arg(format!("{name}.toml")).args(more).stdout(Stdio::null());
        command
    }

    fn output(&self, server: &Server, run: Run<'_>, more: &[&str]) -> Output {
        self.command(server, run, more).output().unwrap()
    }

    /// Runs to the end, and returns rows and records.
    fn finish(&self, server: &Server, run: Run<'_>) -> [String; 2] {
        let output = self.output(server, run, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        FILES.map(|file| self.read(run.name, file))
    }

    fn teach(&self, name: &str) -> PathBuf {
        self.folder.path().join("runs").join(name).join("teach")
    }

    fn read(&self, name: &str, file: &str) -> String {
        fs::read_to_string(self.teach(name).join(file)).unwrap()
    }

    fn report(&self, name: &str) -> Json {
        serde_json::from_str(&self.read(name, "report.json")).unwrap()
    }

    fn users(&self, name: &str) -> Vec<Json> {
        self.read(name, "users.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Fails most requests once, some twice, each in another way.
fn disturb(body: &str, before: usize) -> Option<Fault> {
    let h = hash(body) >> 24;
    let times = if h.is_multiple_of(11) { 2 } else { usize::from(h.is_multiple_of(3)) };
    (before < times).then_some(PASSING[(h / 33) as usize % PASSING.len()])
}

#[test]
fn any_concurrency_gives_the_same_rows_and_a_finished_run_asks_nothing() {
    let (bench, server) = (Bench::new(20), Server::sound());
    let one = Run { name: "one", concurrency: 1, users_per_batch: 3, ..RUN };
    let alone = bench.finish(&server, one);
    assert_eq!(server.most_in_flight(), 1);
    assert!(server.answered().iter().all(|&answered| answered == 1));
    let asked = server.requests();
    let sixteen = Run { name: "sixteen", ..RUN };
    // No answer before two requests are in flight.
    server.hold_after(0);
    let mut child = bench.command(&server, sixteen, &[]).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, || server.open() >= 2);
    server.release();
    assert!(child.wait().unwrap().success());
    assert_eq!(FILES.map(|file| bench.read("sixteen", file)), alone);
    let most = server.most_in_flight();
    assert!((2..=16).contains(&most), "{most} requests in flight");
    // Both sent the same requests.
    assert!(server.answered().iter().all(|&answered| answered == 2));

    let rows: Vec<Json> = alone[0].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let users = bench.users("one");
    assert!(
        !rows.is_empty() && rows.len() == users.iter().map(|u| u["rows"].as_u64().unwrap() as usize).sum::<usize>()
    );
    assert!(users.iter().map(|u| u["uid"].as_str().unwrap().to_owned()).eq((0..20).map(|user| format!("u{user}"))));
    let text = rows[0]["completion"][0]["content"].as_str().unwrap();
    assert!(text.starts_with("<think>\nreasons ") && !text.contains("MARK"), "{text}");
    let report = bench.report("one");
    assert_eq!(report["synthesis"]["too_short"], 4);
    let [teacher, verifier] = ["teacher", "verifier"].map(|model| report["asked"][model].clone());
    let requests = |model: &Json| model["requests"].as_u64().unwrap();
    assert_eq!(requests(&teacher) + requests(&verifier), asked as u64);
    // 10 prompt tokens and 5 generated ones each.
    let costs = [&teacher, &verifier].map(|model| model["cost"].as_f64().unwrap() * 1e6);
    let expected = [70.0 * requests(&teacher) as f64, 10.0 * requests(&verifier) as f64];
    assert!(costs.iter().zip(expected).all(|(cost, expected)| (cost - expected).abs() < 1e-3), "{costs:?}");

    let before = server.requests();
    assert!(bench.output(&server, sixteen, &[]).status.success());
    // Without the stamp, the journal has all answers.
    let forced = bench.output(&server, sixteen, &["--force"]);
    assert!(forced.status.success(), "{}", said(&forced));
    assert_eq!(server.requests(), before);
    assert_eq!(FILES.map(|file| bench.read("sixteen", file)), alone);
    let again = bench.report("sixteen")["asked"]["teacher"].clone();
    assert_eq!((&again["requests"], &again["cost"]), (&teacher["requests"], &teacher["cost"]));
    assert_eq!(again["from_journal"], teacher["requests"]);
}

#[test]
fn a_server_that_fails_changes_no_row_and_no_answer_is_asked_for_twice() {
    let bench = Bench::new(10);
    let undisturbed = bench.finish(&Server::sound(), RUN);
    // The first response is too slow, which costs the whole timeout.
    let slow = AtomicBool::new(true);
    let faults = move |body: &str, before: usize| match slow.swap(false, Ordering::SeqCst) {
        true => Some(Fault::Slow),
        false => disturb(body, before),
    };
    let server = Server::start(Duration::from_millis(2), Box::new(faults));
    assert_eq!(bench.finish(&server, Run { name: "disturbed", timeout_seconds: 10, ..RUN }), undisturbed);
    assert!(server.requests() > server.answers() + 20, "{} requests", server.requests());
    assert!(server.answered().iter().all(|&answered| answered == 1));
}

#[test]
fn a_server_that_dies_halfway_ends_the_run_and_the_next_one_continues() {
    let bench = Bench::new(12);
    let sound = Server::sound();
    let undisturbed = bench.finish(&sound, RUN);
    let server = Server::start(Duration::from_millis(2), Box::new(|_, _| None));
    let run = Run { name: "dying", retries: 1, ..RUN };
    for half in [sound.answers() / 4, sound.answers() / 3] {
        server.die_after(half);
        let output = bench.output(&server, run, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("the same command continues"), "{}", said(&output));
        assert!(FILES.iter().all(|file| !bench.teach("dying").join(file).exists()));
        server.revive();
    }
    assert_eq!(bench.finish(&server, run), undisturbed);
    assert_eq!(server.answers(), sound.answers());
    assert!(server.answered().iter().all(|&answered| answered == 1));
}

#[test]
fn a_server_that_is_down_ends_the_run_also_if_failures_are_skipped() {
    let bench = Bench::new(12);
    let sound = Server::sound();
    let undisturbed = bench.finish(&sound, RUN);
    let server = Server::start(Duration::from_millis(2), Box::new(|_, _| None));
    let run = Run { name: "down", concurrency: 2, retries: 0, on_error: "skip", users_per_batch: 1, ..RUN };
    for answers in [0, sound.answers() / 2] {
        server.die_after(answers);
        let output = bench.output(&server, run, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("the endpoint seems down"), "{}", said(&output));
        assert!(["stamp.json"].iter().chain(&FILES).all(|file| !bench.teach("down").join(file).exists()));
        server.revive();
    }
    assert_eq!(bench.finish(&server, run), undisturbed);
    assert!(server.answered().iter().all(|&answered| answered == 1));
}

#[test]
fn many_users_in_a_row_who_are_refused_are_no_outage() {
    let bench = Bench::new(30);
    let refused = 2..22;
    let users: Vec<String> = refused.clone().map(|user| format!("good {user}-")).collect();
    let refuse = move |body: &str, _: usize| users.iter().any(|user| body.contains(user)).then_some(Fault::Status(400));
    let server = Server::start(Duration::from_millis(1), Box::new(refuse));
    bench.finish(&server, Run { concurrency: 1, retries: 0, on_error: "skip", ..RUN });
    // Every fifth is too short to be asked about.
    let expected = refused.filter(|user| user % 5 != 4).count();
    assert_eq!(bench.report("plain")["failed_users"], expected);
    // A verifier that refuses ends the run at once if failures are not skipped.
    let refuse = |body: &str, _: usize| body.contains("JUDGE").then_some(Fault::Status(400));
    let server = Server::start(Duration::from_millis(1), Box::new(refuse));
    let output = bench.output(&server, Run { name: "verifier", concurrency: 1, ..RUN }, &[]);
    assert!(output.status.code() == Some(1) && said(&output).contains("the verifier failed"), "{}", said(&output));
    assert_eq!(server.requests_to("verifier"), 1);
}

#[test]
fn only_the_first_users_are_asked_about() {
    let (bench, server) = (Bench::new(9), Server::sound());
    assert!(bench.output(&server, RUN, &["--set", "teach.max_users=3"]).status.success());
    let uids: Vec<Json> = bench.users("plain").iter().map(|user| user["uid"].clone()).collect();
    assert_eq!(uids, ["u0", "u1", "u2"]);
}

/// Limits the size of files, so that the journal cannot be written, as on a full disk.
#[cfg(unix)]
#[test]
fn an_answer_that_cannot_be_written_ends_the_run_at_once() {
    let (bench, server) = (Bench::new(60), Server::sound());
    let run = Run { name: "full", concurrency: 1, on_error: "skip", ..RUN };
    let command = bench.command(&server, run, &[]);
    let limited = "trap '' XFSZ; ulimit -f 48; exec \"$0\" \"$@\"";
    let mut shell = Command::new("sh");
    shell.current_dir(bench.folder.path()).args(["-c", limited]).arg(command.get_program()).args(command.get_args());
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for words in ["teacher.jsonl: cannot write: ", "free disk space"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    // No request was sent after the one whose answer is lost.
    let written = journals(&bench.teach("full"))[0].lines().count();
    assert_eq!(server.answers(), written + 1);
    let finished = bench.finish(&server, Run { concurrency: 16, ..run });
    assert_eq!(finished, bench.finish(&Server::sound(), RUN));
    assert_eq!(server.answered().iter().map(|&answered| answered - 1).sum::<usize>(), 1);
}

#[test]
fn a_user_whose_request_is_refused_stops_the_run_or_is_left_out() {
    let bench = Bench::new(10);
    bench.finish(&Server::sound(), RUN);
    let refuse = |body: &str, _| body.contains("good 7-").then_some(Fault::Status(400));
    let server = Server::start(Duration::from_millis(2), Box::new(refuse));
    let stopped = bench.output(&server, Run { name: "stop", ..RUN }, &[]);
    assert_eq!(stopped.status.code(), Some(1), "{}", said(&stopped));
    for words in ["user u7: ", "status 400: out of order", "teach.on_error"] {
        assert!(said(&stopped).contains(words), "{}", said(&stopped));
    }

    let skipped = bench.output(&server, Run { name: "skip", on_error: "skip", ..RUN }, &[]);
    assert!(skipped.status.success(), "{}", said(&skipped));
    assert!(said(&skipped).contains("because a request failed: 1 (the first: u7: "), "{}", said(&skipped));
    let report = bench.report("skip");
    assert_eq!((&report["failed_users"], &report["failed"][0]["uid"]), (&json!(1), &json!("u7")));
    let (whole, users) = (bench.users("plain"), bench.users("skip"));
    assert!(users[7]["error"].as_str().unwrap().contains("400"));
    assert!((0..10).filter(|&user| user != 7).all(|user| users[user] == whole[user]));
}

/// Waits until `done`, which must happen before the process ends.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "the process ended");
        assert!(begin.elapsed() < Duration::from_secs(600), "the process neither asks nor ends");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the complete lines of the journals.
fn journals(folder: &Path) -> [String; 2] {
    ["teacher", "verifier"].map(|model| {
        let mut text = fs::read_to_string(folder.join(format!("journal/{model}.jsonl"))).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    })
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_written() {
    const KILLS: usize = 20;
    let bench = Bench::new(40);
    let undisturbed = bench.finish(&Server::sound(), RUN);
    let server = Server::start(Duration::from_millis(4), Box::new(|_, _| None));
    let run = Run { name: "killed", concurrency: 4, users_per_batch: 8, ..RUN };
    let mut written = journals(&bench.teach("killed"));
    for kill in 0..KILLS as u64 {
        let draw = |purpose: &str, below: usize| Draw::new(20).text(purpose).with(kill).below(below);
        let count = draw("answers", 12);
        let target = server.answers() + count;
        // The answers after that are withheld, so the process cannot end before it is killed.
        server.hold_after(count);
        let mut child = bench.command(&server, run, &[]).stderr(Stdio::null()).spawn().unwrap();
        wait_until(&mut child, || server.answers() >= target);
        thread::sleep(Duration::from_micros(draw("moment", 8000) as u64));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        server.give_up();
        let now = journals(&bench.teach("killed"));
        assert!(now.iter().zip(&written).all(|(now, before)| now.starts_with(before.as_str())), "kill {kill}");
        written = now;
    }
    assert!(written.iter().all(|text| !text.is_empty()));
    assert_eq!(bench.finish(&server, run), undisturbed);
    // Only what was in flight is asked again.
    let repeated: usize = server.answered().iter().map(|&answered| answered - 1).sum();
    assert!(repeated <= KILLS * run.concurrency, "{repeated} requests were answered again");
    assert!(repeated < server.answered().len() / 4, "{repeated} of {}", server.answered().len());
    let mut names = fs::read_dir(bench.teach("killed")).unwrap().flatten().map(|entry| entry.file_name());
    assert!(names.all(|name| !name.to_string_lossy().ends_with(".partial")));
}
