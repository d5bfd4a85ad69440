//! The page of an ablation: tables, and the learning curves of its variants, overlaid.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evals::ablation::AccuracyRow;
use serde::Serialize;

use crate::curves;
use crate::error::ReportError;
use crate::metrics::{self, PhaseMetrics, Series};
use crate::page::{self, PhasePart};
use crate::palette;
use crate::run::RunRecord;

/// The metrics that are compared. Others describe the machine, or do not depend on a variant.
const COMPARED: [&str; 16] = [
    "reward/",
    "validation/",
    "alarm",
    "credit/",
    "kl/",
    "clip/",
    "length/",
    "pass_rate",
    "well_formed",
    "no_answer",
    "entropy",
    "loss",
    "zero_variance",
    "truncated",
    "grad_norm",
    "stage",
];

/// Words in the names of metrics that differ between two equal runs, such as the seconds that a reward term took.
const OF_MACHINE: [&str; 6] = ["seconds", "time", "latency", "hits", "cost", "retries"];

/// A table of an ablation's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportTable {
    /// The title.
    pub title: String,
    /// What the columns mean.
    pub note: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells, row by row. The first column names the row.
    pub rows: Vec<Vec<String>>,
}

/// What the report of an ablation says, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AblationReport {
    /// The name of the ablation.
    pub name: String,
    /// What was run: one paragraph.
    pub about: String,
    /// The result, one sentence for each variant.
    pub sentences: Vec<String>,
    /// The tables.
    pub tables: Vec<ReportTable>,
    /// Runs without a result, and why.
    pub missing: Vec<String>,
    /// Seconds, which differ between two equal ablations.
    pub time: ReportTable,
}

/// The logs of a variant.
#[derive(Clone, Debug)]
pub struct VariantLogs {
    /// The name of the variant.
    pub name: String,
    /// The metrics.jsonl of its runs, one for each seed.
    pub logs: Vec<PathBuf>,
}

/// The data of the template.
#[derive(Serialize)]
struct Page<'a> {
    report: &'a AblationReport,
    curves: PhasePart,
    ink: String,
    muted: String,
    grid: String,
}

/// Writes the page of an ablation. Each chart has one curve for each variant: the mean over its seeds.
///
/// The page replaces `out` atomically. Apart from the section of times, two ablations with the same results give the same page.
///
/// # Errors
/// Returns [`ReportError`] if a log cannot be read or is malformed, or if `out` cannot be written.
pub fn write_ablation(report: &AblationReport, variants: &[VariantLogs], out: &Path) -> Result<(), ReportError> {
    crate::replace(out, &html(report, variants)?)
}

/// Returns the picture of an ablation as SVG: the accuracies of the variants by the first held-out judge, and their pass rates over the
/// steps as means over seeds. `None` without a held-out judge.
///
/// # Errors
/// Same as [`write_ablation`].
pub fn ablation_figure(accuracies: &[AccuracyRow], variants: &[VariantLogs]) -> Result<Option<String>, ReportError> {
    crate::ablation_figure::svg(accuracies, &records(variants)?)
}

fn records(variants: &[VariantLogs]) -> Result<Vec<RunRecord>, ReportError> {
    variants.iter().map(averaged).collect()
}

fn html(report: &AblationReport, variants: &[VariantLogs]) -> Result<String, ReportError> {
    let (main, more) = curves::charts(&records(variants)?, "rl")?.into_iter().partition(|chart| chart.main);
    let page = Page {
        report,
        curves: PhasePart { main, more, ..PhasePart::default() },
        ink: palette::hex(palette::INK),
        muted: palette::hex(palette::MUTED),
        grid: palette::hex(palette::GRID),
    };
    Ok(page::templates()?.get_template("ablation.html")?.render(page)?)
}

/// Returns a record that has only the curves of a variant.
fn averaged(variant: &VariantLogs) -> Result<RunRecord, ReportError> {
    let mut logs = Vec::new();
    for path in &variant.logs {
        let text = std::fs::read_to_string(path).map_err(|source| ReportError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        logs.extend(metrics::parse(path, &text)?.into_iter().find(|phase| phase.name == "rl"));
    }
    Ok(RunRecord {
        path: PathBuf::new(),
        name: variant.name.clone(),
        phases: vec![PhaseMetrics { name: "rl".into(), series: mean(&logs) }],
        eval: Vec::new(),
        gains: Vec::new(),
        examples: Vec::new(),
        config: None,
        prompts: Vec::new(),
        explained: Vec::new(),
        missing: Vec::new(),
    })
}

/// Returns the mean over the logs of each compared metric, at the steps that all of them have.
fn mean(logs: &[PhaseMetrics]) -> Vec<Series> {
    let Some(first) = logs.first() else { return Vec::new() };
    let of_key = |series: &Series| {
        let mut sums: BTreeMap<u64, (f64, usize)> = BTreeMap::new();
        for (step, value) in logs.iter().flat_map(|log| log.points(&series.key).unwrap_or_default()) {
            let (sum, count) = sums.entry(*step).or_default();
            *sum += value;
            *count += 1;
        }
        let whole = sums.into_iter().filter(|(_, (_, count))| *count == logs.len());
        let points: Vec<(u64, f64)> = whole.map(|(step, (sum, count))| (step, sum / count as f64)).collect();
        (!points.is_empty()).then(|| Series { key: series.key.clone(), points })
    };
    first.series.iter().filter(|series| is_compared(&series.key)).filter_map(of_key).collect()
}

fn is_compared(key: &str) -> bool {
    let wanted = COMPARED.iter().any(|begin| key.starts_with(begin));
    let last = key.rsplit('/').next().unwrap_or(key);
    wanted && !last.split('_').any(|word| OF_MACHINE.contains(&word))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn table(title: &str) -> ReportTable {
        ReportTable {
            title: title.into(),
            note: "What it means.".into(),
            header: vec!["variant".into(), "accuracy".into()],
            rows: vec![vec!["<base>".into(), "70.0".into()]],
        }
    }

    fn report() -> AblationReport {
        AblationReport {
            name: "terms".into(),
            about: "Two variants.".into(),
            sentences: vec!["The first is better.".into()],
            tables: vec![table("Accuracy")],
            missing: vec!["b, seed 1: exit code 1".into()],
            time: table("Time"),
        }
    }

    #[test]
    fn variants_share_charts_of_their_means_over_seeds() {
        let place = tempfile::tempdir().unwrap();
        let log = |name: &str, rewards: &[f64]| {
            let path = place.path().join(name);
            let line = |(i, reward): (usize, &f64)| {
                let (step, seconds) = (i + 1, 7.25 * reward);
                format!("{{\"phase\":\"rl\",\"step\":{step},\"reward/judge\":{reward},\"time/step\":{seconds}}}\n")
            };
            fs::write(&path, rewards.iter().enumerate().map(line).collect::<String>()).unwrap();
            path
        };
        let a = VariantLogs { name: "a".into(), logs: vec![log("a0", &[0.2, 0.4]), log("a1", &[0.4, 0.8, 0.9])] };
        let b = VariantLogs { name: "b & c".into(), logs: vec![log("b0", &[0.1, 0.1])] };
        let record = averaged(&a).unwrap();
        assert_eq!(record.phases[0].series.len(), 1, "times are not compared");
        let points = record.phases[0].points("reward/judge").unwrap();
        assert_eq!(points.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2], "the steps that both have");
        assert!((points[0].1 - 0.3).abs() < 1e-12 && (points[1].1 - 0.6).abs() < 1e-12, "{points:?}");
        let page = html(&report(), &[a, b]).unwrap();
        assert_eq!(page.matches("<svg").count(), 1);
        for part in ["Reward: judge", "b &amp; c", "The first is better.", "b, seed 1: exit code 1", "&lt;base&gt;"] {
            assert!(page.contains(part), "{part}");
        }
        let (before, time) = page.split_once("<!-- time -->").unwrap();
        assert!(time.contains("<h3>Time</h3>") && !before.contains("<h3>Time</h3>"), "{time}");
    }

    #[test]
    fn metrics_of_the_machine_are_not_compared() {
        for (key, expected) in [
            ("reward/total", true),
            ("stage1/reward/judge", true),
            ("reward/sentiment", true),
            ("alarm_signs/overlap", true),
            ("reward/mine/seconds", false),
            ("reward/mine/retries", false),
            ("time/step", false),
            ("tokens_per_second/update", false),
            ("judge/training/hits", false),
        ] {
            assert_eq!(is_compared(key), expected, "{key}");
        }
    }
}
