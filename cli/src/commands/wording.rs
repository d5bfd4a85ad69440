//! The prompt sets of a run, as the plans of `xplore config check` and `xplore rl --dry-run` show them.

use std::fmt::Write;

use report::PromptUse;
use xplore::{Error, ErrorKind};

/// Describes the prompt sets for display, and warns of each set that is not the wording of its model. A model that does not exist
/// yet is not an error, because a plan may come before it.
pub fn describe(uses: Result<Vec<PromptUse>, Error>) -> Result<String, Error> {
    let mut out = String::new();
    let mut line = |label: &str, words: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {label:12} {words}");
    };
    match uses {
        Ok(uses) => {
            for used in &uses {
                match used.warning() {
                    Some(warning) => line("WARNING", &warning),
                    None => line("prompts", &used.to_string()),
                }
            }
        }
        Err(e) if e.kind == ErrorKind::Config => return Err(e),
        Err(e) => line("prompts", &format!("not checked: {e}")),
    }
    Ok(out)
}
