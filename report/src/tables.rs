//! Evaluation rows as tables and headlines.

use serde::Serialize;

use configs::eval::Setting;
use evals::TargetKind;

use crate::records::{AccuracyRow, GainRow, JudgeRole, Model, setting_label, targets_label};

/// The panels, in display order.
pub(crate) const PANELS: [(TargetKind, JudgeRole); 4] = [
    (TargetKind::InDomain, JudgeRole::Training),
    (TargetKind::InDomain, JudgeRole::Second),
    (TargetKind::Transfer, JudgeRole::Training),
    (TargetKind::Transfer, JudgeRole::Second),
];

/// The settings, in display order.
pub(crate) const SETTINGS: [Setting; 3] = [Setting::Direct, Setting::Full, Setting::Streaming];

/// A value with its 95 % interval, as text.
#[derive(Serialize)]
pub(crate) struct Cell {
    /// The value.
    pub value: String,
    /// The interval.
    pub interval: String,
}

/// Accuracies: one column per panel, one row per setting and model.
#[derive(Serialize)]
pub(crate) struct EvalTable {
    /// The panel titles, with their numbers of users and targets.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<EvalLine>,
}

/// One panel as a column of a table.
#[derive(Serialize)]
pub(crate) struct Column {
    pub targets: &'static str,
    pub judge: &'static str,
    /// The number of users, as text.
    pub users: String,
    /// The number of targets judged, as text.
    pub targets_judged: String,
}

/// One line of [`EvalTable`].
#[derive(Serialize)]
pub(crate) struct EvalLine {
    pub setting: &'static str,
    /// Whether this is the first line of its setting.
    pub first: bool,
    pub model: &'static str,
    pub cells: Vec<Option<Cell>>,
}

/// Returns the accuracies as a table.
pub(crate) fn eval(rows: &[AccuracyRow]) -> EvalTable {
    let panels: Vec<_> =
        PANELS.into_iter().filter(|panel| rows.iter().any(|row| (row.targets, row.judge) == *panel)).collect();
    let column = |&(targets, judge): &(TargetKind, JudgeRole)| {
        let here = || rows.iter().filter(|row| (row.targets, row.judge) == (targets, judge));
        Column {
            targets: targets_label(targets),
            judge: judge.label(),
            users: range(here().map(|row| row.users)),
            targets_judged: range(here().map(|row| row.targets_judged)),
        }
    };
    let mut kinds: Vec<(Setting, Model)> = rows.iter().map(|row| (row.setting, row.model)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let line = |(index, &(setting, model)): (usize, &(Setting, Model))| {
        let cell = |&(targets, judge): &(TargetKind, JudgeRole)| {
            let wanted = (targets, judge, setting, model);
            let row = rows.iter().find(|row| (row.targets, row.judge, row.setting, row.model) == wanted)?;
            let interval = format!("{} to {}", percent(row.ci_low), percent(row.ci_high));
            Some(Cell { value: percent(row.accuracy), interval })
        };
        let first = index == 0 || kinds[index - 1].0 != setting;
        EvalLine {
            setting: setting_label(setting),
            first,
            model: model.label(),
            cells: panels.iter().map(cell).collect(),
        }
    };
    EvalTable { columns: panels.iter().map(column).collect(), rows: kinds.iter().enumerate().map(line).collect() }
}

/// One line of the table of gains.
#[derive(Serialize)]
pub(crate) struct GainLine {
    pub compared: String,
    pub setting: &'static str,
    pub targets: &'static str,
    pub judge: &'static str,
    /// The difference, in percentage points.
    pub gain: Cell,
    /// Whether the interval excludes 0.
    pub sure: bool,
    pub users: u64,
}

/// Returns the gains as a table.
pub(crate) fn gains(rows: &[GainRow]) -> Vec<GainLine> {
    let line = |row: &GainRow| GainLine {
        compared: format!("{} over {}", row.model.label(), row.baseline.label()),
        setting: setting_label(row.setting),
        targets: targets_label(row.targets),
        judge: row.judge.label(),
        gain: Cell { value: points(row.gain), interval: format!("{} to {}", points(row.ci_low), points(row.ci_high)) },
        sure: row.ci_low > 0.0 || row.ci_high < 0.0,
        users: row.users,
    };
    let mut rows: Vec<&GainRow> = rows.iter().collect();
    rows.sort_by_key(|row| (row.baseline, row.model, row.targets, row.judge, row.setting));
    rows.into_iter().map(line).collect()
}

/// The result in one line per setting: in-domain targets, training judge.
#[derive(Serialize)]
pub(crate) struct Headline {
    pub setting: &'static str,
    pub sft: String,
    pub rl: String,
    /// The upper bound, if measured.
    pub oracle: Option<String>,
    /// The paired difference, if measured.
    pub gain: Option<Cell>,
}

/// Returns a headline for each setting that has both models.
pub(crate) fn headlines(eval: &[AccuracyRow], gains: &[GainRow]) -> Vec<Headline> {
    let headline = |setting: Setting| {
        let (targets, judge) = PANELS[0];
        let accuracy = |model: Model| {
            let wanted = (targets, judge, setting, model);
            let row = eval.iter().find(|row| (row.targets, row.judge, row.setting, row.model) == wanted);
            row.map(|row| percent(row.accuracy))
        };
        let wanted = (targets, judge, setting, Model::Sft, Model::Rl);
        let gain = gains.iter().find(|g| (g.targets, g.judge, g.setting, g.baseline, g.model) == wanted);
        Some(Headline {
            setting: setting_label(setting),
            sft: accuracy(Model::Sft)?,
            rl: accuracy(Model::Rl)?,
            oracle: accuracy(Model::Oracle),
            gain: gain.map(|g| Cell {
                value: points(g.gain),
                interval: format!("{} to {}", points(g.ci_low), points(g.ci_high)),
            }),
        })
    };
    SETTINGS.into_iter().filter_map(headline).collect()
}

/// Formats a share in percent.
fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Formats a difference of shares in percentage points, with its sign.
fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share).replace('-', "−")
}

/// Formats one number, or the minimum and the maximum.
fn range(numbers: impl Iterator<Item = u64> + Clone) -> String {
    match (numbers.clone().min(), numbers.max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        (Some(all), _) => all.to_string(),
        (None, _) => "0".into(),
    }
}
