//! Published scores beside those of an evaluation.

use std::fs;
use std::path::{Path, PathBuf};

use configs::published::{self, Benchmark, RecipeStage};
use configs::{EvalConfig, Setting};
use evals::files::ROWS;
use evals::{EvalRow, TargetKind, sample_size};

use super::record::ScoreComparison;
use crate::error::Error;

/// Contenders that no model wrote the summaries of.
const REFERENCES: [&str; 3] = ["none", "random", "oracle"];

/// The folder of an evaluation and its benchmark.
pub(super) struct MeasuredBenchmark {
    /// The folder.
    pub folder: PathBuf,
    benchmark: Option<&'static Benchmark>,
}

/// Returns whether the folder holds the scores of an evaluation.
pub(super) fn has_rows(folder: &Path) -> bool {
    folder.join(ROWS).is_file()
}

impl MeasuredBenchmark {
    /// Parses `FOLDER` or `BENCHMARK=FOLDER`. Without a name, the benchmark follows from the users file.
    pub(super) fn parse(given: &str) -> Result<Self, Error> {
        let Some((id, folder)) = given.split_once('=').filter(|_| !Path::new(given).exists()) else {
            return Self::of_run(Path::new(given)).checked(given);
        };
        let known = &published::recipe().benchmarks;
        let benchmark = known.iter().find(|benchmark| benchmark.id == id).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|benchmark| benchmark.id.as_str()).collect();
            Error::usage(format!("--eval {given}: unknown benchmark `{id}`; expected one of {}", names.join(", ")))
        })?;
        Self { folder: folder.into(), benchmark: Some(benchmark) }.checked(given)
    }

    fn checked(self, given: &str) -> Result<Self, Error> {
        if has_rows(&self.folder) {
            return Ok(self);
        }
        let folder = self.folder.display();
        Err(Error::usage(format!("--eval {given}: {folder} has no {ROWS}; pass the folder of an evaluation")))
    }

    /// Returns the evaluation in `folder`, with the benchmark of its users file if its name tells.
    pub(super) fn of_run(folder: &Path) -> Self {
        let config = folder.join("config.toml");
        let text = fs::read_to_string(&config).unwrap_or_default();
        let users = (published::stage_of(&text) == Some(RecipeStage::Eval))
            .then(|| configs::parse::<EvalConfig>(&config, &text, &[]).ok())
            .flatten()
            .map(|config| config.users);
        Self { folder: folder.into(), benchmark: users.as_deref().and_then(benchmark_of) }
    }
}

/// Returns the benchmark of a users file: the part of its name before the first `_`, as the released evaluation does.
fn benchmark_of(users: &Path) -> Option<&'static Benchmark> {
    let stem = users.file_stem()?.to_str()?;
    let first = stem.split('_').next()?;
    published::recipe().benchmarks.iter().find(|benchmark| benchmark.files.iter().any(|name| name == first))
}

/// Compares the models of an evaluation with the published scores.
pub(super) fn compare(
    evaluation: &MeasuredBenchmark,
    skipped: &mut Vec<String>,
) -> Result<Vec<ScoreComparison>, Error> {
    let path = evaluation.folder.join(ROWS);
    let text = fs::read_to_string(&path).map_err(|e| Error::data(format!("cannot read {}: {e}", path.display())))?;
    let rows: Vec<EvalRow> = serde_json::from_str(&text)
        .map_err(|e| Error::data(format!("{}:{}: {e}; run the evaluation again", path.display(), e.line())))?;
    let of_models = |row: &&EvalRow| {
        let (model, setting) = (row.model.as_str(), row.setting);
        !REFERENCES.contains(&model) && row.targets == TargetKind::InDomain && setting != Setting::Direct
    };
    let rows: Vec<&EvalRow> = rows.iter().filter(of_models).collect();
    let folder = evaluation.folder.display();
    if rows.is_empty() {
        skipped.push(format!("{folder}: no in-domain score of a model with settings full or streaming"));
    }
    if evaluation.benchmark.is_none() {
        let ids: Vec<&str> = published::recipe().benchmarks.iter().map(|benchmark| benchmark.id.as_str()).collect();
        let fix = format!("name it with --eval BENCHMARK={folder} ({})", ids.join(", "));
        skipped.push(format!("{folder}: published scores: the benchmark is not known; {fix}"));
    }
    Ok(rows.into_iter().map(|row| beside(row, evaluation)).collect())
}

fn beside(row: &EvalRow, evaluation: &MeasuredBenchmark) -> ScoreComparison {
    let published = evaluation.benchmark.and_then(|benchmark| match row.setting {
        Setting::Direct => None,
        Setting::Full => Some(benchmark.full / 100.0),
        Setting::Streaming => Some(benchmark.streaming / 100.0),
    });
    ScoreComparison {
        folder: evaluation.folder.display().to_string(),
        benchmark: evaluation.benchmark.map(|benchmark| benchmark.name.clone()),
        setting: row.setting,
        model: row.model.clone(),
        judge: row.judge.clone(),
        ours: row.accuracy,
        ci_low: row.ci_low,
        ci_high: row.ci_high,
        users: row.users,
        published,
        published_users: evaluation.benchmark.map(|benchmark| benchmark.users),
        in_interval: published.map(|score| (row.ci_low..=row.ci_high).contains(&score)),
        users_if_exact: published.and_then(|score| sample_size::one_proportion(score, row.accuracy)),
        users_of_each: published.and_then(|score| sample_size::two_proportions(score, row.accuracy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_is_the_first_part_of_the_name() {
        let id = |name: &str| benchmark_of(Path::new(name)).map(|benchmark| benchmark.id.as_str());
        assert_eq!(id("data/mind_test_upi.jsonl"), Some("mind"));
        assert_eq!(id("alignx.jsonl"), Some("alignx"));
        assert_eq!(id("student_phd.json"), Some("expertise"));
        assert_eq!((id("users.jsonl"), id("MIND_test.jsonl"), id("my_mind.jsonl"), id("")), (None, None, None, None));
    }

    #[test]
    fn scores_are_compared_with_the_number_of_users_that_tells_them_apart() {
        let place = tempfile::tempdir().unwrap();
        let row = |model: &str, setting: Setting, targets: TargetKind| EvalRow {
            model: model.into(),
            setting,
            targets,
            judge: "judge".into(),
            accuracy: 0.6503,
            ci_low: 0.6,
            ci_high: 0.7,
            users: 350,
            targets_judged: 350,
            no_answer: 0.0,
        };
        let rows = [
            row("none", Setting::Full, TargetKind::InDomain),
            row("rl", Setting::Direct, TargetKind::InDomain),
            row("rl", Setting::Full, TargetKind::InDomain),
            row("rl", Setting::Full, TargetKind::Transfer),
            row("rl", Setting::Streaming, TargetKind::InDomain),
        ];
        evals::files::write(place.path(), &rows, &[]).unwrap();
        let given = place.path().display().to_string();
        let mut skipped = Vec::new();
        let named = MeasuredBenchmark::parse(&format!("alignx={given}")).unwrap();
        let found = compare(&named, &mut skipped).unwrap();
        assert_eq!((found.len(), skipped.len()), (2, 0));
        let full = &found[0];
        assert_eq!(
            (full.benchmark.as_deref(), full.published, full.published_users),
            (Some("AlignX"), Some(0.7503), Some(3000))
        );
        assert_eq!(full.in_interval, Some(false));
        // By hand: √(0.7503 · 0.2497) = 0.432839, √(0.6503 · 0.3497) = 0.476875; one proportion: (1.959964 · 0.432839 + 0.841621 ·
        // 0.476875) / 0.1 = 12.4970, squared 156.17. Two: p̄ = 0.7003, √(2 · 0.7003 · 0.2997) = 0.647889, √(0.187350 + 0.227410) =
        // 0.644018: (1.959964 · 0.647889 + 0.841621 · 0.644018) / 0.1 = 18.1186, squared 328.28.
        assert_eq!((full.users_if_exact, full.users_of_each), (Some(157), Some(329)));
        assert_eq!((found[1].setting, found[1].published), (Setting::Streaming, Some(0.7367)));

        let unnamed = MeasuredBenchmark::parse(&given).unwrap();
        let found = compare(&unnamed, &mut skipped).unwrap();
        assert_eq!((found[0].published, found[0].users_of_each), (None, None));
        assert!(
            skipped[0].contains("the benchmark is not known") && skipped[0].contains("mind, amazon"),
            "{skipped:?}"
        );

        let said = MeasuredBenchmark::parse(&format!("mnid={given}")).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("unknown benchmark `mnid`; expected one of mind, amazon"), "{said}");
        let said = MeasuredBenchmark::parse("mind=/no/such/folder").map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("/no/such/folder has no eval.json"), "{said}");
    }
}
