//! Progress, facts and warnings of long-running work.

/// A receiver of progress, facts and warnings.
pub trait Reporter: Sync {
    /// Starts a task and returns its handle.
    fn task(&self, label: &str) -> Box<dyn Task>;

    /// Reports a heading: the purpose of the work that follows.
    fn heading(&self, text: &str);

    /// Reports a warning to the user; the work continues.
    fn warn(&self, message: &str);

    /// Reports a fact about the run that the user did not set, such as a computed batch size.
    fn info(&self, message: &str);
}

/// The progress of a task.
pub trait Task {
    /// Reports that `done` of `total` units are finished.
    fn at(&mut self, done: u64, total: u64, text: &str);

    /// Reports that the task is finished; `text` summarizes the result.
    fn done(self: Box<Self>, text: &str);
}

/// A reporter that discards everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn task(&self, _: &str) -> Box<dyn Task> {
        Box::new(Self)
    }

    fn heading(&self, _: &str) {}

    fn warn(&self, _: &str) {}

    fn info(&self, _: &str) {}
}

impl Task for Silent {
    fn at(&mut self, _: u64, _: u64, _: &str) {}

    fn done(self: Box<Self>, _: &str) {}
}
