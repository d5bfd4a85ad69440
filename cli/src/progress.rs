//! Progress of long-running work on the terminal: a bar, or plain lines if standard error is not a terminal.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use xplore::{Reporter, Task};

/// Minimum interval between plain lines.
const QUIET: Duration = Duration::from_secs(20);

/// All progress bars. They share the terminal because tasks may run in parallel.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Runs `print` while no bar is shown.
pub fn beside_bars<T>(print: impl FnOnce() -> T) -> T {
    BARS.suspend(print)
}

/// Writes a line of progress to standard error.
pub fn say(line: &str) {
    if shown() {
        BARS.suspend(|| eprintln!("{line}"));
    }
}

/// Returns whether progress is shown, which needs the log level `info`.
fn shown() -> bool {
    tracing::enabled!(tracing::Level::INFO)
}

/// A reporter that writes to standard error.
pub struct Terminal;

impl Reporter for Terminal {
    fn task(&self, label: &str) -> Box<dyn Task> {
        Box::new(Progress::new(label))
    }

    fn heading(&self, text: &str) {
        say(&format!("\n{text}"));
    }

    fn warn(&self, message: &str) {
        tracing::warn!("{message}");
    }

    fn info(&self, message: &str) {
        tracing::info!("{message}");
    }
}

/// The progress of one task.
struct Progress {
    label: String,
    begin: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    None,
}

impl Progress {
    fn new(label: &str) -> Self {
        let label = label.to_owned();
        let display = if !shown() {
            Display::None
        } else if std::io::stderr().is_terminal() {
            let bar = BARS.add(ProgressBar::new(0));
            let style = ProgressStyle::with_template("{prefix:18} {bar:28} {pos}/{len} {elapsed}<{eta} {msg}");
            bar.set_style(style.expect("the template is valid"));
            bar.set_prefix(label.clone());
            Display::Bar(bar)
        } else {
            Display::Lines { last: Instant::now() }
        };
        Self { label, begin: Instant::now(), display }
    }
}

impl Task for Progress {
    fn at(&mut self, done: u64, total: u64, words: &str) {
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(words.to_owned());
            }
            Display::Lines { last } if last.elapsed() >= QUIET => {
                *last = Instant::now();
                say(&format!("{:18} {done}/{total} {words}", self.label));
            }
            Display::Lines { .. } | Display::None => {}
        }
    }

    fn done(self: Box<Self>, words: &str) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        say(&format!("{:18} {:>5.0} s  {words}", self.label, self.begin.elapsed().as_secs_f64()));
    }
}
