//! Examination of the judges of a configuration: calibration, scores of given pairs, and panels.
//!
//! - [`JudgeSetup`]: what a configuration says about judging; [`summaries`]: the summaries that the judges read.
//! - [`calibrate`]: accuracy with true, foreign and no summaries, reliability, order bias and cost.
//! - [`pairs`]: the probability of each choice of a file.
//! - [`panel`]: one model's summaries by several judges, wordings and item orders.

pub(crate) mod loaded;
pub mod pairs;
mod setup;
pub mod summaries;

use std::collections::HashSet;

use evals::panel::spans;
use evals::{CalibrationPlan, CalibrationRow, EvalUser, PanelCell, PanelMember, PanelSpan, judge_tables};
use rewards::Judge;
use serde::Serialize;

use self::loaded::{LoadedJudge, load, with_judges};
pub use self::pairs::{PairRow, PairScore};
pub use self::setup::JudgeSetup;
pub use self::summaries::GivenSummaries;
use crate::error::Error;
use crate::reporter::Reporter;
use crate::{parts, wording};

/// Number of questions per call of a judge.
pub(crate) const REQUESTS_PER_CALL: usize = 512;

/// What a calibration looks at beside the users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Number of bins of the reliability curve, from 1 to 1000. Default: 10.
    pub bins: usize,
    /// Text that the judges also read in place of every summary, such as an order to choose an item. Default: none.
    pub injection: Option<String>,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { bins: 10, injection: None }
    }
}

/// Calibrates every judge on the targets of `users`, in both orders of the items. Returns one row for each judge and kind of
/// summaries.
///
/// # Errors
/// Returns an error if the number of bins is out of range, a judge cannot be loaded or fails, or a user is invalid.
pub fn calibrate(
    setup: &JudgeSetup,
    users: &[EvalUser],
    how: &Calibration,
    reporter: &dyn Reporter,
) -> Result<Vec<CalibrationRow>, Error> {
    if !(1..=1000).contains(&how.bins) {
        return Err(Error::usage(format!("the reliability curve has {} bins; expected 1 to 1000", how.bins)));
    }
    let loaded = load(setup, true, reporter)?;
    let plan = CalibrationPlan {
        seed: setup.seed,
        bins: how.bins,
        injection: how.injection.as_deref(),
        requests_per_call: REQUESTS_PER_CALL,
    };
    let mut task = reporter.task("calibrate");
    let mut show = |words: &str, done: usize, total: usize| task.at(done as u64, total as u64, words);
    let rows = with_judges(&loaded, |judges| Ok(evals::calibrate(users, judges, &plan, &mut show)?))?;
    let judged: usize = rows.iter().map(|row| row.targets_judged).sum();
    task.done(&format!("{} judges, {} users, {judged} choices judged", loaded.len(), users.len()));
    Ok(rows)
}

/// Returns a calibration as text: one table with a line for each judge and kind of summaries, and one with the reliability curves.
pub fn calibration_tables(rows: &[CalibrationRow]) -> String {
    format!("{}\n\n{}", judge_tables::calibration(rows), judge_tables::reliability(rows))
}

/// The accuracy of one model's summaries by judge, wording and order of the items.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PanelReport {
    /// The accuracies.
    pub cells: Vec<PanelCell>,
    /// The mean accuracy with its span, over everything and over each factor.
    pub spans: Vec<PanelSpan>,
}

/// Lets every judge read `summaries`, one for each of `users`, in its own wording and in each of `wordings` (names or folders of
/// prompt sets), and in both orders of the items.
///
/// # Errors
/// Returns an error if a judge or prompt set cannot be loaded, a judge fails, or a user is invalid.
pub fn panel(
    setup: &JudgeSetup,
    users: &[EvalUser],
    summaries: &[String],
    wordings: &[String],
    reporter: &dyn Reporter,
) -> Result<PanelReport, Error> {
    let named = wordings.iter().map(|set| parts::prompts(set)).collect::<Result<Vec<_>, Error>>()?;
    let loaded = load(setup, true, reporter)?;
    let mut asked: Vec<(&LoadedJudge, &chat::PromptSet, Judge<'_>)> = Vec::new();
    for judge in &loaded {
        let mut seen = HashSet::new();
        for set in [&judge.prompts].into_iter().chain(&named) {
            if seen.insert(set.hash()) {
                asked.push((judge, set, judge.with_prompts(set)?));
            }
        }
    }
    // Two sets may have one name: that of a model's folder, and a built-in one.
    let label = |set: &chat::PromptSet| {
        let shared = asked.iter().any(|(_, other, _)| other.name() == set.name() && other.hash() != set.hash());
        if shared { format!("{} ({})", set.name(), &set.hash()[..12]) } else { set.name().to_owned() }
    };
    let labels: Vec<String> = asked.iter().map(|(_, set, _)| label(set)).collect();
    let members: Vec<PanelMember<'_>> = asked
        .iter()
        .zip(&labels)
        .map(|((loaded, _, judge), wording)| PanelMember { judge: loaded.metered(judge), wording })
        .collect();
    let mut task = reporter.task("panel");
    let mut show = |words: &str, done: usize, total: usize| task.at(done as u64, total as u64, words);
    let cells = evals::panel::panel(users, summaries, &members, REQUESTS_PER_CALL, &mut show)?;
    task.done(&format!("{} judges and wordings, {} users", members.len(), users.len()));
    let spans = spans(&cells);
    Ok(PanelReport { cells, spans })
}

/// Returns a panel as text: the accuracies, and their mean with its span.
pub fn panel_tables(report: &PanelReport) -> String {
    format!("{}\n\n{}", judge_tables::panel(&report.cells), judge_tables::spans(&report.spans))
}

/// Reports the prompt sets of the judges that no key names, and warns of each that is not the wording of its model.
fn announce(setup: &JudgeSetup, reporter: &dyn Reporter) -> Result<(), Error> {
    let used = |judge: &setup::NamedConfig| wording::use_of_judge(&judge.key, &judge.config);
    let uses = setup.judges.iter().map(used).collect::<Result<Vec<_>, Error>>()?;
    wording::announce(&uses, reporter);
    Ok(())
}
