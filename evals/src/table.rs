//! Results as text tables, for display.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::{EvalRow, Gain};

/// Returns accuracies in percent with their 95 % intervals: one line for each contender and setting, one column for
/// each kind of targets and judge. A further column for each judge has the percentage of targets without an answer.
pub fn accuracies(rows: &[EvalRow]) -> String {
    let columns = distinct(rows.iter().map(|r| (r.targets, r.judge.as_str())));
    let judges = distinct(rows.iter().map(|r| r.judge.as_str()));
    let lines = distinct(rows.iter().map(|r| (r.model.as_str(), r.setting)));
    let mut header = vec!["model".to_string(), "setting".into()];
    header.extend(columns.iter().map(|(targets, judge)| format!("{targets},\n{judge} judge")));
    header.extend(judges.iter().map(|judge| format!("no answer,\n{judge} judge")));
    let mut table = start(header);
    for (model, setting) in lines {
        let mut cells = vec![model.to_string(), setting.to_string()];
        for (targets, judge) in &columns {
            let wanted = (model, setting, *targets, *judge);
            let row = rows.iter().find(|r| (r.model.as_str(), r.setting, r.targets, r.judge.as_str()) == wanted);
            cells.push(row.map_or(String::new(), |r| {
                format!("{:.1} [{:.1}, {:.1}]", 100.0 * r.accuracy, 100.0 * r.ci_low, 100.0 * r.ci_high)
            }));
        }
        for judge in &judges {
            let wanted = (model, setting, *judge);
            cells.push(no_answer(rows.iter().filter(|r| (r.model.as_str(), r.setting, r.judge.as_str()) == wanted)));
        }
        table.add_row(cells);
    }
    finish(table, 2)
}

/// Returns the percentage of targets without an answer over several rows, or an empty text if there is no row.
fn no_answer<'a>(rows: impl Iterator<Item = &'a EvalRow>) -> String {
    let (silent, all) = rows.fold((0.0, 0.0), |(silent, all), row| {
        let targets = row.targets_judged as f64;
        (silent + row.no_answer * targets, all + targets)
    });
    if all == 0.0 { String::new() } else { format!("{:.1}", 100.0 * silent / all) }
}

/// Returns paired differences in percentage points with their 95 % intervals.
pub fn gains(gains: &[Gain]) -> String {
    let header = ["gain", "setting", "targets", "judge", "points"].map(str::to_string);
    let mut table = start(header.into());
    for g in gains {
        table.add_row([
            format!("{} over {}", g.model, g.baseline),
            g.setting.to_string(),
            g.targets.to_string(),
            g.judge.clone(),
            format!("{:+.1} [{:+.1}, {:+.1}]", 100.0 * g.gain, 100.0 * g.ci_low, 100.0 * g.ci_high),
        ]);
    }
    finish(table, 4)
}

pub(crate) fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// Returns an empty table with the header and the style of all tables.
pub fn start(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

/// Returns a table as text. Right-aligns the numeric columns, which start at column `numbers`.
pub fn finish(mut table: Table, numbers: usize) -> String {
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use crate::{Setting, TargetKind};

    use super::*;

    fn row(model: &str, targets: TargetKind, judge: &str, accuracy: f64) -> EvalRow {
        EvalRow {
            model: model.into(),
            setting: Setting::Full,
            targets,
            judge: judge.into(),
            accuracy,
            ci_low: accuracy - 0.05,
            ci_high: accuracy + 0.05,
            users: 10,
            targets_judged: 40,
            no_answer: 0.0,
        }
    }

    #[test]
    fn each_number_stands_in_its_line_and_column() {
        let text = accuracies(&[
            row("sft", TargetKind::InDomain, "training", 0.7),
            row("sft", TargetKind::Transfer, "training", 0.6),
            row("rl", TargetKind::InDomain, "training", 0.8),
        ]);
        let line = |name: &str| text.lines().find(|l| l.trim_start().starts_with(name)).unwrap().to_string();
        let (sft, rl) = (line("sft"), line("rl"));
        assert!(sft.find("70.0 [65.0, 75.0]").unwrap() < sft.find("60.0 [55.0, 65.0]").unwrap(), "{text}");
        assert!(rl.contains("full") && rl.contains("80.0 [75.0, 85.0]") && !rl.contains("0.0 [0.0"), "{text}");
        assert_eq!(rl.find("80.0"), sft.find("70.0"), "{text}");
        assert!(text.contains("in-domain") && text.contains("transfer") && text.contains("training judge"));
    }

    #[test]
    fn the_share_without_an_answer_is_always_shown() {
        // 0.05 of 40 targets and 0.2 of 20: 6 of 60.
        let silent = |targets, no_answer, targets_judged| EvalRow {
            no_answer,
            targets_judged,
            ..row("sft", targets, "training", 0.7)
        };
        let text = accuracies(&[
            silent(TargetKind::InDomain, 0.05, 40),
            silent(TargetKind::Transfer, 0.2, 20),
            row("rl", TargetKind::InDomain, "training", 0.8),
            row("rl", TargetKind::InDomain, "second", 0.6),
        ]);
        let line = |name: &str| text.lines().find(|l| l.trim_start().starts_with(name)).unwrap().trim_end().to_string();
        assert!(text.contains("no answer"), "{text}");
        assert!(line("sft").contains(" 10.0"), "{text}");
        assert!(line("rl").ends_with("0.0") && line("rl").matches(" 0.0").count() == 2, "{text}");
    }

    #[test]
    fn gains_carry_their_sign() {
        let gain = Gain {
            model: "rl".into(),
            baseline: "sft".into(),
            setting: Setting::Streaming,
            targets: TargetKind::Transfer,
            judge: "second".into(),
            gain: 0.0525,
            ci_low: -0.011,
            ci_high: 0.116,
            users: 10,
        };
        let text = gains(&[gain]);
        assert!(text.contains("rl over sft") && text.contains("+5.2 [-1.1, +11.6]"), "{text}");
    }
}
