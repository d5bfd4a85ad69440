use std::fs;

use chat::records::SignalRecord;
use chat::{Interaction, RlRow, jsonl};
use configs::SynthConfig;
use data_synth::rl_rows::PolicyCounts;
use data_synth::signal::ScoredHistory;
use tempfile::TempDir;

use super::*;
use crate::reporter::Silent;
use crate::runtime;

/// A folder with scored histories: six choices of two users, whose probability falls and whose signal rises.
struct Bench {
    folder: TempDir,
    text: String,
}

impl Bench {
    fn new(prune: &str) -> Self {
        runtime::init(1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let history = |user: usize| {
            let choice = |i: usize| Interaction {
                chosen: format!("warm boats {user} {i}"),
                rejected: Some("dry reports".into()),
                ..Interaction::default()
            };
            let record = |i: usize| {
                let (logprob1, signal) = ((0.99 - 0.05 * i as f64).ln(), 0.1 * i as f64);
                Some(SignalRecord { logprob1, logprob2: logprob1 - signal, signal })
            };
            ScoredHistory {
                uid: format!("u{user}"),
                interactions: (0..6).map(choice).collect(),
                signals: (0..6).map(record).collect(),
                ..ScoredHistory::default()
            }
        };
        jsonl::write(&folder.path().join("scored.jsonl"), &[history(0), history(1)]).unwrap();
        let text = format!("out = '{}'\nthreads = 1\nsteps = ['prune']\n{prune}", folder.path().display());
        Self { folder, text }
    }

    fn run(&self, set: &[&str]) -> Result<String, Error> {
        let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
        let config: SynthConfig = configs::parse(Path::new("synth.toml"), &self.text, &set)?;
        let (input, folder) = (self.folder.path().join("scored.jsonl"), config.folder());
        run(&StepContext { config: &config, folder: &folder, input: Some(&input), reporter: &Silent })
    }

    /// Returns the places of the two targets of each row, and the report.
    fn pruned(&self, set: &[&str]) -> (Vec<(usize, usize)>, PruningReport) {
        let said = self.run(set).unwrap();
        let folder = self.folder.path().join("synth/prune");
        let rows: Vec<RlRow> = jsonl::read(&folder.join("rl.jsonl")).unwrap();
        let report: PruningReport = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
        assert_eq!(report.rows, rows.len());
        assert!(said.starts_with(&format!("{} RL rows of 2 users", rows.len())), "{said}");
        (rows.iter().map(|row| (row.mid_position, row.history.len() - 1)).collect(), report)
    }
}

#[test]
fn each_threshold_changes_the_rows_or_the_report() {
    let bench = Bench::new("[prune.thresholds]\nmost_signal = 1.0\nband_width = 1.0\n");
    let (places, report) = bench.pruned(&[]);
    // The most probable choice is left out; 5 and 4 are adjacent, 5 and 3 are not.
    assert_eq!((places, report.in_band), (vec![(3, 5), (3, 5)], 11));
    assert_eq!(bench.pruned(&["prune.thresholds.least_window=2"]).0, [(3, 5), (3, 5)]);
    assert_eq!(bench.pruned(&["prune.thresholds.rule='windowed'"]).1.in_band, 12);
    assert_eq!(bench.pruned(&["prune.thresholds.most_signal=0.7"]).1.with_signal, 8);
    assert_eq!(bench.pruned(&["prune.thresholds.least_probability=0.8"]).1.solvable, 8);
    assert_eq!(bench.pruned(&["prune.thresholds.band_end=0.75"]).1.in_band, 8);
    assert_eq!(bench.pruned(&["prune.thresholds.band_width=0.75"]).1.in_band, 9);
    let error = bench.run(&["prune.thresholds.least_window=3"]).unwrap_err().to_string();
    assert!(error.contains("scored.jsonl: no user remains") && error.contains("lower least_probability"), "{error}");
}

#[test]
fn what_to_change_follows_from_the_counts() {
    let with = |malformed: usize, too_long: usize| {
        let policy = PolicyCounts { summaries: 8, malformed, too_long, ..PolicyCounts::default() };
        fix(&PruningReport { choices: 4, policy: Some(policy), ..PruningReport::default() })
    };
    assert!(with(4, 4).starts_with("widen prune.policy.pass_rate"));
    assert!(with(5, 9).contains("prune.policy.sampling.max_new_tokens"));
    assert!(with(0, 5).contains("a longer context"));
    assert!(fix(&PruningReport::default()).contains("prune.thresholds.most_signal"));
}

#[test]
fn a_policy_is_measured_with_the_verifier() {
    let place = fixtures::policy::model_and_rows();
    let model = |section: &str| {
        format!(
            "{section}.path = '{}'\n{section}.dtype = 'fp32'\n{section}.device = 'cpu'\n",
            place.path().join("model").display()
        )
    };
    let bench = Bench::new(&format!(
        "prompts = 'compact'\n[prune]\nby = 'policy'\n[prune.policy]\nnum_generations = 2\npass_rate = [0.0, 1.0]\n\
         sampling.max_new_tokens = 4\n{}[verifier]\nprompts = 'compact'\n{}",
        model("model"),
        model("model")
    ));
    let (places, report) = bench.pruned(&[]);
    let counts = report.policy.unwrap();
    // Four choices of each user, with two summaries each, and a range that leaves none out.
    assert_eq!((report.choices, report.in_band, counts.summaries), (8, 8, 16));
    assert_eq!((places.len(), counts.by_passes.iter().sum::<usize>()), (2, 8));
    assert!(places.iter().all(|&(mid, last)| mid >= 1 && last >= mid + 2));
    let fewer = bench.pruned(&["prune.policy.num_generations=1", "prune.policy.targets_per_user=3"]).1;
    assert_eq!((fewer.choices, fewer.policy.unwrap().summaries), (6, 6));
    let late = bench.pruned(&["prune.thresholds.least_window=2", "prune.policy.targets_per_user=9"]).1;
    assert_eq!(late.choices, 8);
    // No summary of four tokens from random weights is well-formed, so nothing is predicted.
    let error = bench.run(&["prune.policy.pass_rate=[0.5, 1.0]"]).unwrap_err().to_string();
    assert!(error.contains("8 are too hard") && error.contains("16 of 16 summaries are malformed"), "{error}");
    assert!(error.contains("raise prune.policy.sampling.max_new_tokens"), "{error}");
    // Policy and verifier are one model, and both keep their answers.
    for role in ["policy", "verifier"] {
        let journal = bench.folder.path().join(format!("synth/prune/journal/{role}.jsonl"));
        assert!(journal.exists(), "{role}");
    }
}
