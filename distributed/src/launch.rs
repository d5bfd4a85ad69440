//! Launcher of several ranks on this machine: `xplore launch`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use c10d::Store;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

/// Polling interval of the ranks.
const LOOK: Duration = Duration::from_millis(50);
/// Grace period for the other ranks, after one failed, to detect the failure and report why they stop.
const GRACE: Duration = Duration::from_secs(15);
/// Time from SIGTERM to SIGKILL.
const LAST: Duration = Duration::from_secs(5);

/// The environment variable that tells a rank that a launcher started it.
const LAUNCHED: &str = "XPLORE_LAUNCHED";

/// An error of starting the ranks, or the exit of the first rank that failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A process could not be started.
    #[error("cannot start rank {rank} ({program}): {message}")]
    Start {
        /// The rank.
        rank: usize,
        /// The program to run.
        program: String,
        /// The reason.
        message: String,
    },
    /// The store could not be served.
    #[error("cannot serve the rendezvous store: {0}")]
    Store(#[from] torch_ext::TorchError),
    /// A rank failed.
    #[error("rank {rank} {how}; the others were stopped")]
    Rank {
        /// The first rank that failed.
        rank: usize,
        /// How the rank ended.
        how: String,
        /// Exit code of the rank; 1 for a signal.
        code: u8,
    },
}

/// Runs `ranks` processes of `program` with `arguments` until all have ended. Each process gets the environment variables of
/// torchrun, and each line of its output is prefixed with its rank. `interrupts` returns the number of interrupts from the user so
/// far; each new one is forwarded to the ranks. If a rank fails, the other ranks have some seconds to report why they stop, and are
/// then terminated.
///
/// # Errors
/// [`LaunchError`] of the first rank that failed.
pub fn launch(
    ranks: usize,
    program: &std::path::Path,
    arguments: &[String],
    interrupts: impl Fn() -> usize,
) -> Result<(), LaunchError> {
    let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(60))?;
    let mut running = Running { ranks: Vec::new(), readers: Vec::new() };
    for rank in 0..ranks {
        running.start(rank, command(rank, ranks, store.port(), program, arguments))?;
    }
    let (mut passed_on, mut first, mut asked) = (0, None, None::<Instant>);
    while running.some_left() {
        std::thread::sleep(LOOK);
        while passed_on < interrupts() {
            running.signal(Signal::INT);
            passed_on += 1;
        }
        if let Some(ended) = running.look() {
            first.get_or_insert((Instant::now(), ended));
        }
        let Some((since, _)) = first else { continue };
        match asked {
            None if since.elapsed() > GRACE => {
                running.signal(Signal::TERM);
                asked = Some(Instant::now());
            }
            Some(begin) if begin.elapsed() > LAST => running.signal(Signal::KILL),
            _ => {}
        }
    }
    running.readers.drain(..).for_each(|reader| {
        let _ = reader.join();
    });
    match first {
        None => Ok(()),
        Some((_, (rank, status))) => Err(LaunchError::Rank { rank, how: told(status), code: code(status) }),
    }
}

fn command(rank: usize, ranks: usize, port: u16, program: &std::path::Path, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    let numbers = [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", ranks), ("LOCAL_WORLD_SIZE", ranks)];
    command
        .args(arguments)
        .envs(numbers.map(|(name, number)| (name, number.to_string())))
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        // The launcher serves the store, so that it outlives every rank.
        .env("TORCHELASTIC_USE_AGENT_STORE", "True")
        .env(LAUNCHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Each rank has its own process group, so that a terminal's Ctrl-C reaches it once, from the launcher.
        .process_group(0);
    command
}

struct Running {
    ranks: Vec<(usize, Child, bool)>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(&mut self, rank: usize, mut command: Command) -> Result<(), LaunchError> {
        let mut child = command.spawn().map_err(|e| LaunchError::Start {
            rank,
            program: command.get_program().to_string_lossy().into_owned(),
            message: e.to_string(),
        })?;
        self.readers.extend(child.stdout.take().map(|out| prefixed(rank, out, false)));
        self.readers.extend(child.stderr.take().map(|err| prefixed(rank, err, true)));
        self.ranks.push((rank, child, true));
        Ok(())
    }

    fn some_left(&self) -> bool {
        self.ranks.iter().any(|(_, _, left)| *left)
    }

    /// Returns the first rank found to have failed since the last call.
    fn look(&mut self) -> Option<(usize, ExitStatus)> {
        let mut bad = None;
        for (rank, child, left) in self.ranks.iter_mut().filter(|(_, _, left)| *left) {
            let status = match child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => Some(status),
                // A process that cannot be waited for is not a child anymore.
                Err(_) => None,
            };
            *left = false;
            if let Some(status) = status.filter(|status| !status.success()) {
                bad.get_or_insert((*rank, status));
            }
        }
        bad
    }

    fn signal(&self, signal: Signal) {
        for (_, child, _) in self.ranks.iter().filter(|(_, _, left)| *left) {
            if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process_group(group, signal);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for (_, child, left) in &mut self.ranks {
            if *left {
                let _ = child.wait();
            }
        }
    }
}

/// Forwards lines, each prefixed with the rank.
fn prefixed(rank: usize, from: impl Read + Send + 'static, to_stderr: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let line = format!("[{rank}] {}\n", String::from_utf8_lossy(&line));
            // A single write per line, so that lines of several ranks do not interleave.
            let _ = match to_stderr {
                true => std::io::stderr().lock().write_all(line.as_bytes()),
                false => std::io::stdout().lock().write_all(line.as_bytes()),
            };
        }
    })
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Makes `command` a process of its own group, which ends when this process does if it calls [`follow_launcher`].
pub fn as_follower(command: &mut Command) -> &mut Command {
    command.env(LAUNCHED, "1").process_group(0)
}

/// Interrupts a process that was started with [`as_follower`].
pub fn interrupt(child: &Child) {
    if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(group, Signal::INT);
    }
}

/// Returns whether [`launch`] started this process.
pub fn launched() -> bool {
    std::env::var_os(LAUNCHED).is_some()
}

/// Makes this process end when its launcher does, if a launcher started it.
pub fn follow_launcher() {
    if launched() {
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
}
