//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Lines come at most this often where there is no terminal.
const QUIET: Duration = Duration::from_secs(20);

/// All bars, which share the terminal: work may be done in parallel.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The progress of one piece of work.
pub struct Progress {
    label: String,
    begin: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Begins to show a piece of work.
    pub fn new(label: impl Into<String>) -> Self {
        let label = label.into();
        let display = if std::io::stderr().is_terminal() {
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

    /// `done` of `total`, and a few words.
    pub fn at(&mut self, done: u64, total: u64, words: &str) {
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(words.to_owned());
            }
            Display::Lines { last } if last.elapsed() >= QUIET => {
                *last = Instant::now();
                eprintln!("{:18} {done}/{total} {words}", self.label);
            }
            Display::Lines { .. } => {}
        }
    }

    /// Ends it with a line that stays.
    pub fn done(self, words: &str) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
        let line = format!("{:18} {:>5.0} s  {words}", self.label, self.begin.elapsed().as_secs_f64());
        BARS.suspend(|| eprintln!("{line}"));
    }
}
