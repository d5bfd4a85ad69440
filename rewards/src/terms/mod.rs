//! Reward terms: each scores responses by one criterion. A new one is a file here and a line in [`TERMS`].

mod accuracy;
mod brevity;
mod format;
mod judge;

pub use accuracy::Accuracy;
pub use brevity::Brevity;
pub use format::Format;
pub use judge::JudgeChoice;

use crate::Judged;

/// One criterion.
pub trait RewardTerm: Sync {
    /// The name by which configs ask for it.
    fn name(&self) -> &'static str;

    /// One score a response, in order; by convention from 0 to 1, more being better.
    fn score(&self, responses: &[Judged<'_>]) -> Vec<f64>;
}

/// Every term there is.
pub static TERMS: &[&dyn RewardTerm] = &[&JudgeChoice, &Accuracy, &Format, &Brevity];

/// A term that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reward term is called `{name}`{}; known: {}", suggestion(name), known())]
pub struct UnknownTerm {
    /// The name asked for.
    pub name: String,
}

/// Finds a term by name.
///
/// # Errors
/// [`UnknownTerm`], which lists the known names and suggests the nearest.
pub fn find(name: &str) -> Result<&'static dyn RewardTerm, UnknownTerm> {
    TERMS.iter().copied().find(|t| t.name() == name).ok_or_else(|| UnknownTerm { name: name.into() })
}

fn known() -> String {
    TERMS.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
}

fn suggestion(name: &str) -> String {
    let likeness = |term: &&dyn RewardTerm| strsim::jaro_winkler(term.name(), name);
    let nearest = TERMS.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.filter(|t| likeness(t) > 0.7).map_or(String::new(), |t| format!(" (did you mean `{}`?)", t.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_found_by_name_and_names_are_unique() {
        for term in TERMS {
            assert_eq!(find(term.name()).map(RewardTerm::name), Ok(term.name()));
        }
        let mut names: Vec<_> = TERMS.iter().map(|t| t.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TERMS.len());
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_and_the_list() {
        let message = |name| find(name).err().map(|e| e.to_string());
        assert_eq!(
            message("brevety").as_deref(),
            Some(
                "no reward term is called `brevety` (did you mean `brevity`?); known: judge, accuracy, format, brevity"
            )
        );
        assert_eq!(
            message("xyz").as_deref(),
            Some("no reward term is called `xyz`; known: judge, accuracy, format, brevity")
        );
    }
}
