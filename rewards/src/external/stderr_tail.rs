//! The last lines of a process's standard error, in bounded memory.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Maximum number of lines that are kept.
const LINES: usize = 20;
/// Maximum length of a line that is kept, bytes.
const LINE_BYTES: usize = 400;
/// Polling interval of [`StderrTail::wait`].
const POLL: Duration = Duration::from_millis(5);

/// Reads standard error in a thread, so that a process never waits for it.
pub struct StderrTail {
    tail: Arc<Mutex<Tail>>,
    reader: JoinHandle<()>,
}

impl StderrTail {
    /// Reads from `stderr` until it is closed. Every line is logged at the level `debug`, under `program`.
    pub fn new(program: &str, stderr: impl Read + Send + 'static) -> Self {
        let tail = Arc::new(Mutex::new(Tail { program: program.into(), ..Tail::default() }));
        let of_reader = Arc::clone(&tail);
        Self { tail, reader: thread::spawn(move || read(stderr, &of_reader)) }
    }

    /// Waits until standard error is closed, for at most `limit`. A descendant of the process may keep it open.
    pub fn wait(&self, limit: Duration) {
        let begin = Instant::now();
        while !self.reader.is_finished() && begin.elapsed() < limit {
            thread::sleep(POLL);
        }
    }

    /// Returns the last lines; empty if there are none.
    pub fn text(&self) -> String {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

#[derive(Default)]
struct Tail {
    program: String,
    lines: VecDeque<String>,
    /// The beginning of the line that is not complete.
    partial: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.partial.len() < LINE_BYTES => self.partial.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        tracing::debug!("{}: {line}", self.program);
        self.lines.push_back(line);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
    }

    fn text(&self) -> String {
        let partial = String::from_utf8_lossy(&self.partial);
        let mut lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        if !partial.trim().is_empty() {
            lines.push(&partial);
        }
        lines.join("\n")
    }
}

fn read(mut stderr: impl Read, tail: &Mutex<Tail>) {
    let mut chunk = [0; 8192];
    loop {
        match stderr.read(&mut chunk) {
            Ok(0) => return,
            Ok(n) => tail.lock().unwrap_or_else(PoisonError::into_inner).push(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(text: &[u8]) -> String {
        let tail = StderrTail::new("p", std::io::Cursor::new(text.to_vec()));
        tail.wait(Duration::from_secs(60));
        tail.text()
    }

    #[test]
    fn the_last_lines_are_kept_and_long_ones_are_cut() {
        assert_eq!(tail(b""), "");
        assert_eq!(tail(b"one\r\ntwo"), "one\ntwo");
        let many: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        let kept = tail(many.as_bytes());
        assert_eq!((kept.lines().count(), kept.lines().last()), (LINES, Some("line 999")));
        let long = tail(&[b"x".repeat(1 << 20), b"\nend\n".to_vec()].concat());
        assert_eq!(long, format!("{}\nend", "x".repeat(LINE_BYTES)));
        assert_eq!(tail(b"\xff\xfe\n"), "\u{fffd}\u{fffd}");
    }
}
