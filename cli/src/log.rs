//! Log events of all crates, as lines on standard error: `warning: rank 1: …`.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::progress;

/// Minimum severity of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warn,
    /// Errors, warnings and progress.
    Info,
    /// Checkpoints and other details, too.
    Debug,
    /// All messages.
    Trace,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self).expect("no level is skipped");
        f.write_str(value.get_name())
    }
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Starts writing events of `level` and above. Lines name `rank`, the rank of this process among several.
pub fn init(level: LogLevel, rank: Option<usize>) {
    tracing_subscriber::fmt()
        .with_max_level(Level::from(level))
        .with_ansi(colored(&io::stderr()))
        .with_writer(BesideBars)
        .event_format(Line { rank })
        .init();
}

/// Returns whether a stream shows colors: if it is a terminal, and `NO_COLOR` (no-color.org) is unset or empty.
pub fn colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The format of a line.
struct Line {
    rank: Option<usize>,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (name, color) = match *event.metadata().level() {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 32),
            Level::DEBUG => ("debug", 34),
            Level::TRACE => ("trace", 35),
        };
        match out.has_ansi_escapes() {
            true => write!(out, "\x1b[1;{color}m{name}:\x1b[0m ")?,
            false => write!(out, "{name}: ")?,
        }
        if let Some(rank) = self.rank {
            write!(out, "rank {rank}: ")?;
        }
        context.format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}

/// Standard error. Bars are hidden while a line is written.
struct BesideBars;

impl MakeWriter<'_> for BesideBars {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl Write for BesideBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::beside_bars(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
