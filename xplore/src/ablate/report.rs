//! The report of an ablation: tables and sentences, as Markdown, JSON and HTML.

mod markdown;
mod tables;

use std::path::{Path, PathBuf};

use configs::ablate::Variant;
use evals::ablation::AblationResults;
use evals::crossed::Range;
use report::{AblationReport, VariantLogs};
use serde::Serialize;

use super::plan::AblatePlan;
use super::results::{Collected, Cost, RunCost};
use super::runner::Failure;
use crate::error::Error;
use crate::parts;

/// The significance level of the sentences.
const LEVEL: f64 = 0.05;

/// The content of ablation.json.
#[derive(Serialize)]
struct Json<'a> {
    name: &'a str,
    version: &'a str,
    steps: usize,
    seeds: &'a [u64],
    baseline: &'a str,
    training_judges: &'a [String],
    variants: Vec<VariantRecord<'a>>,
    sentences: &'a [String],
    #[serde(flatten)]
    results: &'a AblationResults,
    costs: &'a [RunCost<Cost>],
    missing: &'a [String],
}

#[derive(Serialize)]
struct VariantRecord<'a> {
    name: &'a str,
    set: &'a [String],
}

/// Writes ablation.json, ablation.md, ablation.html and ablation.svg, and ablation-time.json with what differs between two equal ablations, into the
/// folder of the ablation. Returns the paths, and the report as a section for another Markdown file.
///
/// # Errors
/// Returns an error if a log cannot be read or a file cannot be written.
pub fn write(plan: &AblatePlan, collected: &Collected, failures: &[Failure]) -> Result<(Vec<PathBuf>, String), Error> {
    let text = text(plan, collected, failures);
    let folder = plan.config.folder();
    let json = Json {
        name: &plan.config.name,
        version: env!("CARGO_PKG_VERSION"),
        steps: plan.config.steps,
        seeds: &plan.config.seeds,
        baseline: &plan.variants[plan.baseline].name,
        training_judges: &plan.config.training_judges,
        variants: plan.variants.iter().map(|Variant { name, set, .. }| VariantRecord { name, set }).collect(),
        sentences: &text.sentences,
        results: &collected.results,
        costs: &collected.costs,
        missing: &text.missing,
    };
    let paths = ["ablation.json", "ablation-time.json", "ablation.md", "ablation.html"].map(|name| folder.join(name));
    parts::write(&paths[0], &pretty(&json))?;
    parts::write(&paths[1], &pretty(&collected.measured))?;
    parts::write(&paths[2], &markdown::render(&text, 1))?;
    let logs = logs(plan, collected);
    report::write_ablation(&text, &logs, &paths[3])?;
    let mut paths = Vec::from(paths);
    if let Some(figure) = report::ablation_figure(&collected.results.accuracies, &logs)? {
        paths.push(folder.join("ablation.svg"));
        parts::write(&folder.join("ablation.svg"), &figure)?;
    }
    Ok((paths, markdown::render(&text, 3)))
}

/// Returns the text of a Markdown file up to and including the marker `<!-- ablation NAME -->`, and that from the marker
/// `<!-- /ablation NAME -->` on.
///
/// # Errors
/// Returns an error if the file lacks the markers, or cannot be read.
pub fn locate(file: &Path, name: &str) -> Result<(String, String), Error> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::usage(format!("--into {}: {e}", file.display())))?;
    let (open, close) = (format!("<!-- ablation {name} -->\n"), format!("<!-- /ablation {name} -->\n"));
    let found = text.split_once(&open).and_then(|(before, rest)| Some((before, rest.split_once(&close)?.1)));
    let Some((before, after)) = found else {
        let (open, close) = (open.trim_end(), close.trim_end());
        return Err(Error::usage(format!(
            "--into {}: expected the lines `{open}` and `{close}`, between which the report goes; add them",
            file.display()
        )));
    };
    Ok((format!("{before}{open}"), format!("{close}{after}")))
}

/// Replaces what is between the markers that [`locate`] finds by `section`.
///
/// # Errors
/// Same as [`locate`], and if the file cannot be written.
pub fn insert(file: &Path, name: &str, section: &str) -> Result<(), Error> {
    let (before, after) = locate(file, name)?;
    parts::write(file, &format!("{before}{section}{after}"))
}

fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("numbers and strings, with strings as keys, always serialize") + "\n"
}

/// Returns the logs of the finished runs of each variant.
fn logs(plan: &AblatePlan, collected: &Collected) -> Vec<VariantLogs> {
    let of_variant = |variant: &Variant| {
        let runs = plan.runs.iter().filter(|run| run.variant == variant.name);
        let finished = runs.filter(|run| !collected.unfinished.contains(&run.label()));
        VariantLogs { name: variant.name.clone(), logs: finished.map(|run| run.metrics()).collect() }
    };
    plan.variants.iter().map(of_variant).filter(|variant| !variant.logs.is_empty()).collect()
}

fn text(plan: &AblatePlan, collected: &Collected, failures: &[Failure]) -> AblationReport {
    let missing = |label: &String| {
        let failed = failures.iter().find(|failure| failure.run == *label);
        format!("{label}: {}", failed.map_or("not finished", |failure| failure.reason.as_str()))
    };
    AblationReport {
        name: plan.config.name.clone(),
        about: about(plan, collected),
        sentences: sentences(&collected.results),
        tables: vec![
            tables::variants(plan),
            tables::accuracies(&collected.results),
            tables::differences(&collected.results),
            tables::hacking(&collected.results),
            tables::costs(&collected.costs),
        ],
        missing: collected.unfinished.iter().map(missing).chain(without_users(collected)).collect(),
        time: tables::times(&collected.measured),
    }
}

/// Returns a message for each variant with a finished run, but without a user that all its runs share.
fn without_users(collected: &Collected) -> Vec<String> {
    let accuracies = &collected.results.accuracies;
    let mut names: Vec<&str> = collected.measured.iter().map(|run| run.variant.as_str()).collect();
    names.dedup();
    names.retain(|name| accuracies.iter().all(|row| row.variant != *name));
    let message = |name: &&str| {
        format!("{name}: no user was evaluated with every seed; give the users the same uid for all seeds")
    };
    names.iter().map(message).collect()
}

fn about(plan: &AblatePlan, collected: &Collected) -> String {
    let config = &plan.config;
    let users = collected.results.accuracies.iter().map(|row| row.accuracy.users).max().unwrap_or(0);
    let seeds: Vec<String> = config.seeds.iter().map(u64::to_string).collect();
    format!(
        "{} variants, each trained for {} steps with {} {} ({}) and evaluated on {users} held-out users; compared with `{}`. Written \
         by xplore {}.",
        plan.variants.len(),
        config.steps,
        seeds.len(),
        if seeds.len() == 1 { "seed" } else { "seeds" },
        seeds.join(", "),
        plan.variants[plan.baseline].name,
        env!("CARGO_PKG_VERSION"),
    )
}

/// Returns a sentence for each variant that is compared with another one, by the first held-out judge in the first setting, and one for
/// each sign of reward hacking.
fn sentences(results: &AblationResults) -> Vec<String> {
    let Some(first) = results.differences.iter().find(|row| row.held_out) else { return Vec::new() };
    let primary: Vec<_> =
        results.differences.iter().filter(|r| r.setting == first.setting && r.judge == first.judge).collect();
    let mut out = Vec::new();
    let mut done: Vec<(&str, &str)> = Vec::new();
    for row in &primary {
        let pair = (row.variant.as_str(), row.baseline.as_str());
        if done.contains(&pair) {
            continue;
        }
        done.push(pair);
        let all: Vec<_> = primary.iter().filter(|r| (r.variant.as_str(), r.baseline.as_str()) == pair).collect();
        let clauses: Vec<String> = all.iter().map(|row| clause(row)).collect();
        let CrossedSize { seeds, users } = CrossedSize::of(row);
        let significant = all.iter().filter(|row| row.p_holm.is_some_and(|p| p < LEVEL)).count();
        let verdict = match (significant, all.len()) {
            (0, _) => "not significant".to_owned(),
            (some, all) if some == all => "significant".to_owned(),
            (some, all) => format!("{some} of {all} significant"),
        };
        out.push(format!(
            "Over {seeds} and {users}, `{}` differs from `{}` in the accuracy of the held-out judge `{}` ({}) by {} (Holm-corrected at \
             {LEVEL}: {verdict}).",
            row.variant,
            row.baseline,
            row.judge,
            row.setting,
            clauses.join(" and by "),
        ));
    }
    for row in results.hacking.iter().filter(|row| row.sign) {
        out.push(format!(
            "`{}` shows a sign of reward hacking ({}, {} targets): over the model before the training, the training judges gain {} points \
             and the held-out judges {}.",
            row.variant,
            row.setting,
            row.targets,
            tables::points(row.training.mean),
            tables::points(row.held_out.mean),
        ));
    }
    out
}

fn clause(row: &evals::ablation::DifferenceRow) -> String {
    let interval = row.difference.over_both.map_or_else(
        || "no interval".to_owned(),
        |Range { low, high }| format!("95 % interval {} to {}", tables::points(low), tables::points(high)),
    );
    let p = row.p_holm.map_or_else(String::new, |p| format!(", {}", tables::p_value(p)));
    format!("{} points on {} targets ({interval}{p})", tables::points(row.difference.mean), row.targets)
}

/// The numbers of seeds and users of a difference, in words.
struct CrossedSize {
    seeds: String,
    users: String,
}

impl CrossedSize {
    fn of(row: &evals::ablation::DifferenceRow) -> Self {
        let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        Self { seeds: counted(row.difference.seeds, "seed"), users: counted(row.difference.users, "held-out user") }
    }
}

#[cfg(test)]
mod tests {
    use evals::ablation::{AccuracyRow, DifferenceRow, HackingRow};
    use evals::crossed::CrossedMean;
    use evals::{Setting, TargetKind};

    use super::*;
    use crate::ablate::results::MeasuredCost;

    fn mean(mean: f64, half: f64) -> CrossedMean {
        let range = Some(Range { low: mean - half, high: mean + half });
        CrossedMean {
            mean,
            over_users: range,
            over_seeds: range,
            over_both: range,
            p: Some(0.01),
            seeds: 3,
            users: 200,
        }
    }

    fn difference(targets: TargetKind, judge: &str, p_holm: f64) -> DifferenceRow {
        DifferenceRow {
            variant: "no_credit".into(),
            baseline: "published".into(),
            setting: Setting::Full,
            targets,
            judge: judge.into(),
            held_out: judge == "second",
            difference: mean(-0.018, 0.014),
            p_holm: Some(p_holm),
        }
    }

    #[test]
    fn a_sentence_says_what_a_paper_would_print() {
        let results = AblationResults {
            accuracies: Vec::new(),
            differences: vec![
                difference(TargetKind::InDomain, "training", 0.5),
                difference(TargetKind::InDomain, "second", 0.012),
                difference(TargetKind::Transfer, "second", 0.3),
            ],
            hacking: vec![HackingRow {
                variant: "no_credit".into(),
                setting: Setting::Full,
                targets: TargetKind::Transfer,
                training: mean(0.2, 0.1),
                held_out: mean(0.0, 0.1),
                divergence: mean(0.2, 0.1),
                sign: true,
            }],
        };
        let expected = "Over 3 seeds and 200 held-out users, `no_credit` differs from `published` in the accuracy of the held-out judge \
                        `second` (full) by −1.8 points on in-domain targets (95 % interval −3.2 to −0.4, p = 0.012) and by −1.8 points \
                        on transfer targets (95 % interval −3.2 to −0.4, p = 0.300) (Holm-corrected at 0.05: 1 of 2 significant).";
        let found = sentences(&results);
        assert_eq!(found[0], expected);
        assert!(found[1].contains("sign of reward hacking") && found[1].contains("gain +20.0 points"), "{found:?}");
        assert_eq!(found.len(), 2);
        assert!(sentences(&AblationResults::default()).is_empty());
    }

    #[test]
    fn a_variant_whose_runs_share_no_user_is_named() {
        let run = |variant: &str, seed| RunCost { variant: variant.into(), seed, cost: MeasuredCost::default() };
        let row = |variant: &str| AccuracyRow {
            variant: variant.into(),
            setting: Setting::Full,
            targets: TargetKind::InDomain,
            judge: "second".into(),
            held_out: true,
            accuracy: mean(0.5, 0.1),
        };
        let results = AblationResults { accuracies: vec![row("a")], ..AblationResults::default() };
        let measured = vec![run("a", 0), run("b", 0), run("b", 1)];
        let found = without_users(&Collected { results, measured, ..Collected::default() });
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("b: no user was evaluated with every seed"), "{found:?}");
    }

    #[test]
    fn a_section_is_replaced_between_its_markers() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("page.md");
        let page = |inner: &str| format!("# Page\n\n<!-- ablation a -->\n{inner}<!-- /ablation a -->\n\nThe end.\n");
        std::fs::write(&file, page("old\n")).unwrap();
        insert(&file, "a", "new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), page("new\n"));
        let error = insert(&file, "b", "new\n").unwrap_err().to_string();
        assert!(error.contains("`<!-- ablation b -->`") && error.contains("add them"), "{error}");
    }
}
