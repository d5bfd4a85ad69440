//! The processes of an ablation.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use distributed::launch::{as_follower, interrupt};

use super::plan::PlannedRun;
use super::state::{self, Left};
use crate::error::Error;
use crate::reporter::{Reporter, Task};
use crate::runtime;

/// Polling interval of the processes.
const POLL: Duration = Duration::from_millis(50);

/// Number of interrupts that end a process at once. Training needs one: it finishes its step and writes a checkpoint.
const INTERRUPTS: usize = 2;

/// How runs are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program `xplore`.
    pub program: PathBuf,
    /// Value of `--log-level` of the processes.
    pub log_level: String,
    /// Values of CUDA_VISIBLE_DEVICES. One run at a time uses each. Empty: one run at a time, with the devices of this process.
    pub devices: Vec<String>,
}

/// A run that has no result, and why.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Names of the variant and the seed.
    pub run: String,
    /// The reason.
    pub reason: String,
}

/// A run whose process is running.
struct Active<'a> {
    run: &'a PlannedRun,
    child: Child,
    trains: bool,
    began: Instant,
    interrupts: usize,
    /// The lock, which the process holds too, so that another invocation cannot start the run again before its marker is written.
    _lock: File,
}

impl Active<'_> {
    /// Returns the number of interrupts that end the process.
    fn needed_interrupts(&self) -> usize {
        if self.trains { 1 } else { INTERRUPTS }
    }

    /// Returns what the process does.
    fn phase(&self) -> &'static str {
        if self.trains { "training" } else { "evaluation" }
    }
}

/// The result of starting a run.
enum Started<'a> {
    Running(Active<'a>),
    /// The run was finished before.
    Finished,
    /// The process of another invocation has it.
    Locked,
}

struct Queue<'a> {
    launch: &'a Launch,
    pending: VecDeque<&'a PlannedRun>,
    /// Labels of the runs whose training ended successfully in this invocation.
    trained: Vec<String>,
    failures: Vec<Failure>,
    done: usize,
    total: usize,
    /// Whether a line said that another invocation works on the ablation.
    said_locked: bool,
}

/// Runs what is left of `runs`. A run that fails does not end the others; the failures are returned.
///
/// # Errors
/// Returns an error if a folder holds a run with another configuration, if a file cannot be read or written, or if the user asked to
/// stop.
pub fn run_all(runs: &[&PlannedRun], launch: &Launch, reporter: &dyn Reporter) -> Result<Vec<Failure>, Error> {
    // Before the first process starts, so that hours of training do not end in such an error.
    for run in runs {
        state::check(run)?;
    }
    let mut queue = Queue {
        launch,
        pending: runs.iter().copied().collect(),
        trained: Vec::new(),
        failures: Vec::new(),
        done: 0,
        total: runs.len(),
        said_locked: false,
    };
    let mut progress = reporter.task("ablate");
    let mut slots: Vec<Option<Active<'_>>> = (0..launch.devices.len().max(1)).map(|_| None).collect();
    if let Err(error) = queue.run(&mut slots, reporter, &mut *progress) {
        end(slots.into_iter().flatten().collect());
        return Err(error);
    }
    if runtime::stop_requested() && queue.done + queue.failures.len() < queue.total {
        let words = format!("stopped after {} of {} runs; the same command resumes it", queue.done, queue.total);
        return Err(Error::interrupted(words));
    }
    progress.done(&format!("{} of {} runs finished", queue.done, queue.total));
    Ok(queue.failures)
}

impl<'a> Queue<'a> {
    /// Starts and polls processes until nothing is left, or until the user asks to stop and all have ended.
    fn run(
        &mut self,
        slots: &mut [Option<Active<'a>>],
        reporter: &dyn Reporter,
        progress: &mut dyn Task,
    ) -> Result<(), Error> {
        let launch = self.launch;
        loop {
            for (index, slot) in slots.iter_mut().enumerate() {
                if slot.is_none() && !runtime::stop_requested() {
                    let device = launch.devices.get(index).map(String::as_str);
                    *slot = self.start_next(device, reporter, progress)?;
                }
                if let Some(active) = slot.take() {
                    *slot = self.poll(active, progress)?;
                }
            }
            let idle = slots.iter().all(Option::is_none);
            if idle && (self.pending.is_empty() || runtime::stop_requested()) {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Starts the next process, if there is a run that can be started.
    fn start_next(
        &mut self,
        device: Option<&str>,
        reporter: &dyn Reporter,
        progress: &mut dyn Task,
    ) -> Result<Option<Active<'a>>, Error> {
        for _ in 0..self.pending.len() {
            let Some(run) = self.pending.pop_front() else { break };
            match self.start(run, device)? {
                Some(Started::Running(active)) => {
                    reporter.info(&format!("{}: {} (log: {})", run.label(), active.phase(), run.log().display()));
                    self.show(progress, &active);
                    return Ok(Some(active));
                }
                Some(Started::Finished) => self.done += 1,
                Some(Started::Locked) => {
                    if !std::mem::replace(&mut self.said_locked, true) {
                        reporter.info(&format!("{}: another process runs it; waiting for it", run.label()));
                    }
                    self.pending.push_back(run);
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// Starts the process of a run. Returns `None` if the run failed.
    fn start(&mut self, run: &'a PlannedRun, device: Option<&str>) -> Result<Option<Started<'a>>, Error> {
        let Some(lock) = state::lock(run)? else { return Ok(Some(Started::Locked)) };
        if state::finished(run)?.is_some() {
            return Ok(Some(Started::Finished));
        }
        let left = state::prepare(run)?;
        let trains = left != Left::Evaluation;
        if trains && self.trained.contains(&run.label()) {
            self.fail(run, "the training ended without a checkpoint of the last step".into());
            return Ok(None);
        }
        let mut command = Command::new(&self.launch.program);
        command.args(["--log-level", &self.launch.log_level]);
        command.arg(if trains { "rl" } else { "eval" }).arg("--config");
        command.arg(run.config_file(if trains { "rl" } else { "eval" }));
        if left == Left::Rest {
            command.arg("--resume");
        }
        if let Some(device) = device {
            command.env("CUDA_VISIBLE_DEVICES", device);
        }
        let held = lock
            .try_clone()
            .map_err(|e| Error::environment(format!("{}: cannot hold the lock: {e}", run.lock_file().display())))?;
        let child = spawn(command, lock, &run.log())?;
        Ok(Some(Started::Running(Active { run, child, trains, began: Instant::now(), interrupts: 0, _lock: held })))
    }

    /// Looks at a process. Returns it if it still runs.
    fn poll(&mut self, mut active: Active<'a>, progress: &mut dyn Task) -> Result<Option<Active<'a>>, Error> {
        let waited = active.child.try_wait();
        let status =
            waited.map_err(|e| Error::environment(format!("{}: cannot wait for it: {e}", active.run.label())))?;
        let Some(status) = status else {
            if runtime::stop_requested() && active.interrupts < active.needed_interrupts() {
                interrupt(&active.child);
                active.interrupts += 1;
            }
            return Ok(Some(active));
        };
        let run = active.run;
        if !status.success() {
            if !runtime::stop_requested() {
                self.fail(run, format!("{} {}", active.phase(), ended(status)));
            }
        } else if active.trains {
            self.trained.push(run.label());
            self.pending.push_front(run);
        } else {
            state::finish(run, active.began.elapsed().as_secs_f64())?;
            self.done += 1;
            self.show(progress, &active);
        }
        Ok(None)
    }

    fn fail(&mut self, run: &PlannedRun, what: String) {
        self.failures.push(Failure { run: run.label(), reason: format!("{what}; see {}", run.log().display()) });
    }

    fn show(&self, progress: &mut dyn Task, active: &Active<'_>) {
        progress.at(self.done as u64, self.total as u64, &format!("{}: {}", active.run.label(), active.phase()));
    }
}

/// Starts a process that writes its output to `log`, and that holds the lock as its standard input: if this process is killed, a run is
/// locked as long as its own process lives.
fn spawn(mut command: Command, lock: File, log: &Path) -> Result<Child, Error> {
    let cannot = |what: &str, e: std::io::Error| Error::environment(format!("{}: cannot {what}: {e}", log.display()));
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(|e| cannot("create the folder", e))?;
    }
    let out = File::options().create(true).append(true).open(log).map_err(|e| cannot("open", e))?;
    let errors = out.try_clone().map_err(|e| cannot("open", e))?;
    command.stdin(Stdio::from(lock)).stdout(Stdio::from(out)).stderr(Stdio::from(errors));
    as_follower(&mut command)
        .spawn()
        .map_err(|e| Error::environment(format!("cannot start {}: {e}", Path::new(command.get_program()).display())))
}

/// Interrupts the processes, and waits until they have ended.
fn end(mut running: Vec<Active<'_>>) {
    for count in 0..INTERRUPTS {
        for active in running.iter().filter(|active| (active.interrupts..active.needed_interrupts()).contains(&count)) {
            interrupt(&active.child);
        }
        std::thread::sleep(POLL);
    }
    for active in &mut running {
        // The error that ends the ablation is the one to report.
        let _ = active.child.wait();
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".into(),
    }
}
