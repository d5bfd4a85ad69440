//! A program that answers requests on its standard input and output.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::stderr_tail::StderrTail;

/// Maximum length of a line that the program may write, bytes.
const MAX_LINE: u64 = 64 << 20;
/// Number of lines that are read ahead. A program that writes more has to wait.
const LINES_AHEAD: usize = 2;
/// Time in which a program ends after its standard input is closed.
const GRACE: Duration = Duration::from_secs(5);
/// Time to wait for the exit status and the standard error of a program that closed its standard output.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Polling interval of the exit status.
const POLL: Duration = Duration::from_millis(5);

/// Variables by which a process joins the ranks of the run. A program that uses torch.distributed must not.
const RANK_VARIABLES: [&str; 8] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_USE_AGENT_STORE",
    "XPLORE_LAUNCHED",
];

/// What the program wrote to its standard output.
enum Output {
    Line(Vec<u8>),
    TooLong,
    Closed,
}

/// A running program. Threads of their own write to its standard input and read its standard output and standard error, so that
/// neither side waits for the other with a full pipe. Dropping it ends the program and its descendants.
pub struct Process {
    child: Child,
    /// Lines for the thread that writes them; `None` once the standard input is to be closed.
    input: Option<Sender<Vec<u8>>>,
    output: Receiver<Output>,
    stderr: StderrTail,
    /// Whether the program failed, so that it is not worth waiting for its end.
    failed: bool,
}

impl Process {
    /// Starts a program with its arguments.
    ///
    /// # Errors
    /// Returns a message that names the program if it cannot be started.
    pub fn start(command: &[String]) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("`command` is empty")?;
        let mut spawning = Command::new(program);
        spawning
            .args(arguments)
            // Lines that Python prints are not held back.
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C reaches only xplore, which finishes the step and then closes the standard input.
            .process_group(0);
        for name in RANK_VARIABLES {
            spawning.env_remove(name);
        }
        let mut child = spawning.spawn().map_err(|e| {
            format!("cannot start `{program}`: {e}; give a program on PATH, or its path from the current directory")
        })?;
        let (input, lines) = mpsc::channel();
        let (said, output) = mpsc::sync_channel(LINES_AHEAD);
        let mut stdin = child.stdin.take().expect("standard input is piped");
        thread::spawn(move || write_lines(&mut stdin, &lines));
        let stdout = child.stdout.take().expect("standard output is piped");
        thread::spawn(move || read_lines(stdout, &said));
        let stderr = StderrTail::new(program, child.stderr.take().expect("standard error is piped"));
        Ok(Self { child, input: Some(input), output, stderr, failed: false })
    }

    /// Writes a line and returns the next line that the program writes.
    ///
    /// # Errors
    /// Returns a message if the program ends, writes no line within `timeout`, or writes one that is too long or not UTF-8. It is
    /// then of no further use.
    pub fn exchange(&mut self, line: &str, timeout: Duration) -> Result<String, String> {
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        // If the program closed its standard input, the thread that writes has ended; the missing answer tells the reason.
        let _ = self.input.as_ref().map(|input| input.send(bytes));
        let told = match self.output.recv_timeout(timeout) {
            Ok(Output::Line(line)) => String::from_utf8(line).map_err(|_| "it wrote a line that is not UTF-8".into()),
            Ok(Output::TooLong) => Err(format!("it wrote a line of more than {} MiB", MAX_LINE >> 20)),
            Ok(Output::Closed) | Err(RecvTimeoutError::Disconnected) => Err(self.end()),
            Err(RecvTimeoutError::Timeout) => Err(format!("it did not answer within {} s", timeout.as_secs_f64())),
        };
        self.failed |= told.is_err();
        told
    }

    /// Closes the standard input, at whose end a program ends by itself.
    pub fn close_input(&mut self) {
        // The thread that writes drops its end with the channel.
        self.input = None;
    }

    /// Returns `message` with the last lines of the program's standard error.
    pub fn with_stderr(&self, message: &str) -> String {
        match self.stderr.text() {
            text if text.is_empty() => format!("{message} (its standard error is empty)"),
            text => format!("{message}; the last lines of its standard error:\n{text}"),
        }
    }

    /// Returns how the program ended that closed its standard output.
    fn end(&mut self) -> String {
        let status = self.wait(LAST_WORDS);
        self.stderr.wait(LAST_WORDS);
        match status.map(|status| (status, status.code(), status.signal())) {
            Some((_, Some(code), _)) => format!("it ended with exit code {code}"),
            Some((_, None, Some(signal))) => format!("it was killed by signal {signal}"),
            Some((status, None, None)) => format!("it ended ({status})"),
            None => "it closed its standard output".into(),
        }
    }

    /// Waits until the program ends, for at most `limit`.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(None) if begin.elapsed() < limit => thread::sleep(POLL),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close_input();
        if !self.failed {
            self.wait(GRACE);
        }
        // Descendants too: the program leads its process group.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        // Without this, the process would remain as a zombie.
        let _ = self.child.wait();
    }
}

/// Writes lines until there are no more, or until the other side closes the pipe.
fn write_lines(stdin: &mut impl Write, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Reads lines until the pipe is closed, a line is too long, or nobody needs them any more.
fn read_lines(stdout: impl Read, said: &SyncSender<Output>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let output = match stdout.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Output::Closed,
            Ok(_) if line.ends_with(b"\n") => Output::Line(line),
            Ok(n) if n as u64 == MAX_LINE => Output::TooLong,
            // The last line may lack its end.
            Ok(_) => Output::Line(line),
        };
        let ends = !matches!(output, Output::Line(_));
        if said.send(output).is_err() || ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start(&["sh".into(), "-c".into(), script.into()]).unwrap()
    }

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_line_goes_in_and_a_line_comes_out() {
        let mut process = shell("while read -r line; do echo \"got $line\"; done");
        assert_eq!(process.exchange("one", SOON).unwrap().trim_end(), "got one");
        assert_eq!(process.exchange("two", SOON).unwrap().trim_end(), "got two");
        let begin = Instant::now();
        drop(process);
        assert!(begin.elapsed() < GRACE, "the program did not end with its input: {:?}", begin.elapsed());
    }

    #[test]
    fn the_end_is_told_with_its_reason_and_the_last_lines() {
        let mut process = shell("echo why >&2; exit 3");
        let error = process.exchange("one", SOON).unwrap_err();
        assert_eq!(error, "it ended with exit code 3");
        assert!(process.with_stderr(&error).ends_with("the last lines of its standard error:\nwhy"));
        let mut process = shell("kill -9 $$");
        assert_eq!(process.exchange("one", SOON).unwrap_err(), "it was killed by signal 9");
        let mut process = shell("exec 1>&-; sleep 600");
        assert_eq!(process.exchange("one", SOON).unwrap_err(), "it closed its standard output");
    }

    #[test]
    fn a_process_that_hangs_is_killed_with_its_descendants_and_leaves_no_zombie() {
        let mut process = shell("sleep 600 & echo $!; wait");
        let descendant: i32 = process.exchange("", SOON).unwrap().trim().parse().unwrap();
        let error = process.exchange("one", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error, "it did not answer within 0.05 s");
        let own = process.child.id();
        let begin = Instant::now();
        drop(process);
        assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
        assert!(!std::path::Path::new(&format!("/proc/{own}")).exists());
        // The descendant's parent is gone, so init reaps it, in its own time.
        let gone = || match std::fs::read_to_string(format!("/proc/{descendant}/stat")) {
            Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
            Err(_) => true,
        };
        while !gone() {
            assert!(begin.elapsed() < SOON, "{descendant} is alive");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = Process::start(&["./no-such-program".into()]).map(drop).unwrap_err();
        assert!(error.contains("cannot start `./no-such-program`") && error.contains("on PATH"), "{error}");
    }
}
