use std::fs;

use chat::Message;
use configs::SynthConfig;
use tempfile::TempDir;

use super::*;
use crate::reporter::Silent;

/// A folder with histories, and a configuration that trains a small scorer on them.
struct Bench {
    folder: TempDir,
    text: String,
}

const SCORER: &str = "by = 'scorer'\n[scorer]\ntrain.max_steps = 2\ntrain.batch_size = 2\n[scorer.model]\ndtype = 'fp32'\ndevice = 'cpu'\n\
                      tokenizer.vocab_size = 400\n[scorer.model.shape]\nlayers = 1\nhidden_size = 32\nintermediate_size = 64\n\
                      heads = 2\nkv_heads = 1\nhead_dim = 16\nmax_position_embeddings = 2048\n";

impl Bench {
    fn new(signal: &str) -> Self {
        runtime::init(1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let of_row = |row: chat::RlRow| History { uid: row.uid, interactions: row.history, ..History::default() };
        let histories: Vec<History> = fixtures::policy::rows(4).into_iter().map(of_row).collect();
        jsonl::write(&folder.path().join("in.jsonl"), &histories).unwrap();
        let text = format!("out = '{}'\nthreads = 1\nsteps = ['signal']\n[signal]\n{signal}", folder.path().display());
        Self { folder, text }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, set: &[&str]) -> Result<String, Error> {
        let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
        let config: SynthConfig = configs::parse(Path::new("synth.toml"), &self.text, &set)?;
        let input = self.path("in.jsonl");
        let folder = config.folder();
        run(&StepContext { config: &config, folder: &folder, input: Some(&input), reporter: &Silent })
    }

    fn scored(&self, set: &[&str]) -> Vec<ScoredHistory> {
        self.run(set).unwrap();
        jsonl::read(&self.path("synth/signal/scored.jsonl")).unwrap()
    }

    /// Returns the number of letters in each training row of the scorer.
    fn letters(&self) -> Vec<usize> {
        let rows: Vec<scoring::ScorerRow> = jsonl::read(&self.path("synth/signal/scorer-rows.jsonl")).unwrap();
        rows.iter().map(|row| row.indices.len()).collect()
    }
}

fn signals(history: &ScoredHistory) -> Vec<f64> {
    history.signals.iter().flatten().map(|record| record.signal).collect()
}

#[test]
fn a_new_scorer_is_trained_once_and_scores_every_choice() {
    let bench = Bench::new(SCORER);
    let said = bench.run(&[]).unwrap();
    assert_eq!(said, "30 choices of 4 users scored");
    let scored = bench.scored(&[]);
    assert_eq!(scored.iter().map(|h| h.signals.len()).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert_eq!(bench.letters(), [6, 7, 8, 9]);
    for history in &scored {
        assert_eq!(signals(history).len(), history.interactions.len());
        // Nothing precedes the first choice, so both texts are the same.
        assert_eq!(history.signals[0].unwrap().signal, 0.0);
        assert!(history.signals.iter().flatten().all(|record| record.logprob1 <= 0.0 && record.logprob2 <= 0.0));
        assert!(signals(history)[1..].iter().any(|signal| *signal != 0.0));
    }
    // The trained scorer is kept, and can be named.
    let model = bench.path("synth/signal/scorer/model");
    let trained = fs::metadata(model.join("model.safetensors")).unwrap().modified().unwrap();
    assert_eq!(bench.scored(&[]), scored);
    assert_eq!(fs::metadata(model.join("model.safetensors")).unwrap().modified().unwrap(), trained);
    // Optimizer states are not kept. Neither the speed nor the place of the folder matters.
    assert!(!bench.path("synth/signal/scorer/checkpoints").exists());
    fs::create_dir_all(bench.path("moved")).unwrap();
    fs::rename(bench.path("synth"), bench.path("moved/synth")).unwrap();
    let moved = format!("out='{}'", bench.path("moved").display());
    bench.run(&[&moved, "threads=2", "scorer.train.micro_batch_tokens=512"]).unwrap();
    let moved = bench.path("moved/synth/signal/scorer/model/model.safetensors");
    assert_eq!(fs::metadata(moved).unwrap().modified().unwrap(), trained);
    fs::rename(bench.path("moved/synth"), bench.path("synth")).unwrap();
    let elsewhere = bench.path("elsewhere");
    fs::rename(&model, &elsewhere).unwrap();
    let named = Bench::new("by = 'scorer'\n[scorer.model]\ndtype = 'fp32'\ndevice = 'cpu'\n");
    assert_eq!(named.scored(&[&format!("scorer.trained='{}'", elsewhere.display())]), scored);
    assert!(!named.path("synth/signal/scorer-rows.jsonl").exists());
}

#[test]
fn what_is_left_of_another_scorer_is_not_used() {
    let bench = Bench::new(SCORER);
    let scored = bench.scored(&[]);
    // As after a kill while the folder was removed.
    fs::remove_file(bench.path("synth/signal/scorer.key")).unwrap();
    fs::write(bench.path("synth/signal/scorer/model/model.safetensors"), "torn").unwrap();
    assert_eq!(bench.scored(&[]), scored);
}

#[test]
fn an_earlier_file_remains_if_nothing_is_scored() {
    let bench = Bench::new(SCORER);
    let scored = bench.scored(&[]);
    let model = format!("scorer.trained='{}'", bench.path("synth/signal/scorer/model").display());
    let named = Bench::new("by = 'scorer'\n[scorer.model]\ndtype = 'fp32'\ndevice = 'cpu'\n");
    assert_eq!(named.scored(&[&model]), scored);
    let error = named.run(&[&model, "scorer.max_length=2"]).unwrap_err().to_string();
    assert!(error.contains("no choice was scored"), "{error}");
    let kept: Vec<ScoredHistory> = jsonl::read(&named.path("synth/signal/scored.jsonl")).unwrap();
    assert_eq!(kept, scored);
}

#[test]
fn targets_of_messages_are_counted_apart() {
    let bench = Bench::new(SCORER);
    let mut histories: Vec<History> = jsonl::read(&bench.path("in.jsonl")).unwrap();
    let (targets, messages) = (histories[0].interactions[..2].to_vec(), vec![Message::user("hello")]);
    histories.push(History { uid: "m".into(), messages, targets, ..History::default() });
    jsonl::write(&bench.path("in.jsonl"), &histories).unwrap();
    let said = bench.run(&[]).unwrap();
    assert!(said.starts_with("30 choices of 5 users scored, 2 not (targets of messages"), "{said}");
}

#[test]
fn each_key_of_the_scorer_changes_the_scores_or_the_rows() {
    let bench = Bench::new(SCORER);
    let scored = bench.scored(&[]);
    for set in ["seed=43", "scorer.train.max_steps=1", "scorer.optimizer.lr=1e-2", "scorer.model.shape.layers=2"] {
        let other = bench.scored(&[set]);
        assert_eq!(other.len(), scored.len());
        assert!(other.iter().zip(&scored).any(|(a, b)| a.signals != b.signals), "{set}");
    }
    let short = bench.scored(&["signal.max_interactions=3"]);
    assert!(short.iter().all(|history| history.interactions.len() == 3 && signals(history).len() == 3));
    assert_eq!(short[0].interactions, scored[0].interactions[3..]);
    assert_eq!(bench.letters(), [3, 3, 3, 3]);
    bench.scored(&["scorer.train_max_length=200"]);
    assert!(bench.letters().iter().all(|&letters| (1..6).contains(&letters)), "{:?}", bench.letters());
    let cut = bench.scored(&["scorer.max_length=200"]);
    assert_eq!(bench.letters(), [6, 7, 8, 9]);
    for history in &cut {
        assert!(
            history.interactions.len() >= 6
                && history.signals[0].is_none()
                && history.signals.last().unwrap().is_some()
        );
    }
    assert!(bench.run(&["scorer.max_length=200"]).unwrap().contains("not (too long)"));
    let error = bench.run(&["scorer.train_max_length=10"]).unwrap_err().to_string();
    assert!(error.contains("no row to train the scorer on") && error.contains("in.jsonl"), "{error}");
}

#[test]
fn the_judge_reads_the_history_or_a_summary() {
    let place = fixtures::policy::model_and_rows();
    let model = place.path().join("model");
    let bench = Bench::new(&format!(
        "by = 'judge'\nmax_interactions = 4\n[verifier]\nprompts = 'compact'\nmodel.path = '{}'\nmodel.dtype = 'fp32'\n\
         model.device = 'cpu'\n",
        model.display()
    ));
    let scored = bench.scored(&[]);
    assert_eq!(scored.iter().map(|h| signals(h).len()).collect::<Vec<_>>(), [4, 4, 4, 4]);
    assert!(scored.iter().all(|history| history.signals[0].unwrap().signal == 0.0));
    assert!(scored.iter().any(|history| signals(history)[1..].iter().any(|signal| *signal != 0.0)));
    let summaries = bench.path("summaries.jsonl");
    let line =
        |uid: usize| format!("{{\"uid\": \"p{uid}\", \"summary\": \"warm quiet boats\", \"well_formed\": true}}\n");
    fs::write(&summaries, (0..4).map(line).collect::<String>()).unwrap();
    let set = format!("signal.summaries='{}'", summaries.display());
    let informed = bench.scored(&[&set]);
    assert!(informed.iter().any(|history| history.signals[0].unwrap().signal != 0.0));
    assert_eq!(informed[0].signals[0].unwrap().logprob2, scored[0].signals[0].unwrap().logprob2);
    assert!(bench.path("synth/signal/journal/verifier.jsonl").exists());
    assert_eq!(bench.scored(&["verifier.orders='one'"]), scored, "the items are shown in both orders");
    // A history that does not fit is cut, and a judge that has no room for it scores the others.
    let long = bench.scored(&["signal.max_interactions=0"]);
    assert_eq!(long.iter().map(|h| h.signals.len()).collect::<Vec<_>>(), [6, 7, 8, 9]);
    fs::write(&summaries, (0..3).map(line).collect::<String>()).unwrap();
    let error = bench.run(&[&set]).unwrap_err().to_string();
    assert!(error.contains("no summary of the user `p3`"), "{error}");
}

#[test]
fn the_summaries_are_an_input_of_the_judge() {
    let files = |by: &str| {
        let text =
            "steps = ['import']\nimport = { format = 'world' }\nsignal = { by = 'judge', summaries = 's.jsonl' }\n";
        let mut config: SynthConfig = configs::parse(Path::new("synth.toml"), text, &[]).unwrap();
        if by == "scorer" {
            config.signal.by = SignalBy::Scorer;
        }
        let folder = Path::new("runs/x");
        inputs(&StepContext { config: &config, folder, input: None, reporter: &Silent })
    };
    let histories = PathBuf::from("runs/x/import/train.jsonl");
    assert_eq!(files("scorer"), std::slice::from_ref(&histories));
    assert_eq!(files("judge"), [histories, PathBuf::from("s.jsonl")]);
}

#[test]
fn histories_without_choices_are_named() {
    let bench = Bench::new(SCORER);
    let messages = History { uid: "m".into(), messages: vec![Message::user("hello")], ..History::default() };
    jsonl::write(&bench.path("in.jsonl"), &[messages]).unwrap();
    let error = bench.run(&[]).unwrap_err().to_string();
    assert!(error.contains("in.jsonl: no row to train the scorer on"), "{error}");
    assert!(error.contains("targets of messages need signal.by = \"judge\""), "{error}");
}
