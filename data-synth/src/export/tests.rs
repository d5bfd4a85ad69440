use std::collections::BTreeSet;
use std::fs;

use chat::records::Checked;
use chat::{History, Interaction, Message};
use configs::synth::ExportFormat;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::*;

fn interaction(text: &str) -> Interaction {
    Interaction {
        query: Some("which one?".into()),
        chosen: format!("chosen {text}"),
        rejected: Some("rejected\nitem".into()),
        domain: Some("news".into()),
        task: None,
    }
}

fn rl_row(uid: &str) -> RlRow {
    RlRow {
        uid: uid.into(),
        history: (0..4).map(|i| interaction(&format!("{uid} {i}"))).collect(),
        mid_position: 1,
        signal_gap: 0.25,
        distance_to_end: 2,
        references: vec!["likes é".into()],
        ..RlRow::default()
    }
}

/// A message-shaped row, whose lists of interactions are empty.
fn message_row(uid: &str) -> RlRow {
    RlRow {
        uid: uid.into(),
        messages: vec![Message::user("hello"), Message::assistant("hi")],
        stage_targets: vec![interaction("1"), interaction("2")],
        mid_position: 1,
        ..RlRow::default()
    }
}

fn sft_row(text: &str) -> SftRow {
    let completion = vec![Message::assistant("<think>\nwhy\n</think>\n\nlikes news")];
    SftRow { prompt: vec![Message::system("be brief"), Message::user(text)], completion }
}

/// A folder with the files of finished steps: `users` users with two SFT rows and one RL row each.
struct Bench {
    folder: tempfile::TempDir,
    config: ExportConfig,
    sft: &'static str,
    rl: &'static str,
}

impl Bench {
    fn new(users: usize) -> Self {
        let (folder, config) = (tempfile::tempdir().unwrap(), ExportConfig::default());
        let bench = Self { folder, config, sft: "sft.jsonl", rl: "rl.jsonl" };
        let uids: Vec<String> = (0..users).map(|i| format!("user-{i}")).collect();
        let sft: Vec<SftRow> =
            uids.iter().flat_map(|uid| [sft_row(&format!("{uid} first")), sft_row(&format!("{uid} second"))]).collect();
        chat::jsonl::write(&bench.path("sft.jsonl"), &sft).unwrap();
        let taught: Vec<Json> =
            uids.iter().map(|uid| json!({"uid": uid, "stages": [], "rows": 2, "error": null})).collect();
        chat::jsonl::write(&bench.path("users.jsonl"), &taught).unwrap();
        let rl = |(i, uid): (usize, &String)| if i % 5 == 4 { message_row(uid) } else { rl_row(uid) };
        let rl: Vec<RlRow> = uids.iter().enumerate().map(rl).collect();
        chat::jsonl::write(&bench.path("rl.jsonl"), &rl).unwrap();
        let test = |uid: &String| History {
            uid: format!("test-{uid}"),
            interactions: (0..3).map(|i| interaction(&i.to_string())).collect(),
            ..History::default()
        };
        chat::jsonl::write(&bench.path("test.jsonl"), &uids.iter().map(test).collect::<Vec<_>>()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn export(&self) -> Result<ExportReport, ExportError> {
        self.export_with(|job| job)
    }

    fn export_with(
        &self,
        change: impl for<'a> FnOnce(ExportJob<'a>) -> ExportJob<'a>,
    ) -> Result<ExportReport, ExportError> {
        let [sft, taught, rl, test] = [self.sft, "users.jsonl", self.rl, "test.jsonl"].map(|name| self.path(name));
        let folder = self.path("export");
        let models = [UsedModel { role: "teacher".into(), name: "a/teacher".into() }];
        let provenance = [Provenance {
            step: "import".into(),
            stamp: "c0ffee".into(),
            text: "[import]\nformat = \"mind\"\n".into(),
            inputs: vec![("raw/news.tsv".into(), "5eed".into())],
        }];
        export(&change(ExportJob {
            sft: Some(&sft),
            taught: Some(&taught),
            rl: Some(&rl),
            test: Some(&test),
            folder: &folder,
            config: &self.config,
            seed: 7,
            name: "own-data",
            provenance: &provenance,
            models: &models,
        }))
    }

    fn read<T: DeserializeOwned + Checked>(&self, name: &str) -> Vec<T> {
        chat::jsonl::read(&self.path(name)).unwrap()
    }
}

fn parquet<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    corpus::raw::open(path).unwrap().map(|row| serde_json::from_str(&row.unwrap().json).unwrap()).collect()
}

#[test]
fn no_user_is_in_both_splits_of_any_set() {
    let mut bench = Bench::new(60);
    bench.config.validation_share = 0.3;
    let report = bench.export().unwrap();
    let uids = |name: &str| -> BTreeSet<String> { bench.read::<RlRow>(name).into_iter().map(|row| row.uid).collect() };
    let (train, validation) = (uids("export/rl/train.jsonl"), uids("export/rl/validation.jsonl"));
    assert!(train.is_disjoint(&validation) && train.len() + validation.len() == 60);
    // 60 users with probability 0.3: 18 in the mean, and six standard deviations are 21.
    assert!((1..40).contains(&validation.len()), "{}", validation.len());
    // The first word of a prompt is the user, and a user is in the same split of both sets.
    let users = |name: &str| -> BTreeSet<String> {
        let rows = bench.read::<SftRow>(name).into_iter();
        rows.map(|row| row.prompt[1].content.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!((users("export/sft/train.jsonl"), users("export/sft/validation.jsonl")), (train.clone(), validation));
    assert_eq!(report.sft[&Split::Train].rows, 2 * train.len());
    assert_eq!((report.sft[&Split::Train].users, report.rl[&Split::Train].users), (train.len(), train.len()));
}

#[test]
fn the_split_of_a_user_depends_on_seed_and_id_alone() {
    let drawn = |seed| (0..200).map(|i| split_of(&format!("u{i}"), seed, 0.5)).collect::<Vec<_>>();
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert!((0..200).all(|i| split_of(&format!("u{i}"), 1, 0.0) == Split::Train));
    // Who is held out stays held out with a larger share.
    let held_out = |share| (0..200).filter(|i| split_of(&format!("u{i}"), 1, share) == Split::Validation).count();
    assert!(held_out(0.1) < held_out(0.5));
}

#[test]
fn parquet_and_json_lines_hold_the_same_rows() {
    let bench = Bench::new(10);
    bench.export().unwrap();
    let rows: Vec<RlRow> = parquet(&bench.path("export/rl/train.parquet"));
    assert_eq!(rows, bench.read::<RlRow>("export/rl/train.jsonl"));
    let rows: Vec<SftRow> = parquet(&bench.path("export/sft/train.parquet"));
    assert_eq!(rows, bench.read::<SftRow>("export/sft/train.jsonl"));
}

/// Compares with pyarrow and with the `datasets` library, which reads the card (`scripts/reference/exported_rows.py`).
#[test]
fn other_libraries_read_the_tables_and_the_card() {
    let mut bench = Bench::new(12);
    bench.config.validation_share = 0.3;
    let report = bench.export().unwrap();
    assert!(report.rl.len() == 2, "{report:?}");
    let job = json!({"folder": bench.path("export"), "sets": ["sft", "rl"]});
    let answer = python_reference::ask("exported_rows.py", &job, bench.folder.path());
    for reader in ["pyarrow", "datasets"] {
        for split in Split::ALL {
            let rows = |set: &str| answer[reader][set][split.name()].clone();
            let rl: Vec<RlRow> = serde_json::from_value(rows("rl")).unwrap();
            assert_eq!(rl, bench.read::<RlRow>(&format!("export/rl/{}.jsonl", split.name())), "{reader}");
            let sft: Vec<SftRow> = serde_json::from_value(rows("sft")).unwrap();
            assert_eq!(sft, bench.read::<SftRow>(&format!("export/sft/{}.jsonl", split.name())), "{reader}");
        }
    }
    // The types that the card declares are those of the tables.
    assert_eq!(answer["same_features"], json!({"sft": true, "rl": true}));
    assert_eq!(answer["card"]["license"], "other");
}

#[test]
fn the_reader_of_training_data_takes_both_formats() {
    let bench = Bench::new(10);
    bench.export().unwrap();
    let hub = || hub::HubSettings { offline: true, ..hub::HubSettings::from_environment() };
    let load = |name: &str| corpus::users(&bench.path(name), configs::Unusable::Error, &hub()).unwrap().rows;
    assert_eq!(load("export/rl/train.parquet"), load("export/rl/train.jsonl"));
}

#[test]
fn formats_and_files_of_an_earlier_export_follow_the_configuration() {
    let mut bench = Bench::new(40);
    bench.config.validation_share = 0.3;
    bench.export().unwrap();
    assert!(bench.path("export/sft/validation.parquet").exists() && bench.path("export/eval/users.jsonl").exists());
    bench.config.formats = vec![ExportFormat::Jsonl];
    bench.config.validation_share = 0.0;
    bench.config.eval_targets = 0;
    bench.export().unwrap();
    for gone in ["sft/train.parquet", "sft/validation.parquet", "rl/validation.jsonl", "eval/users.jsonl"] {
        assert!(!bench.path("export").join(gone).exists(), "{gone}");
    }
    let card = fs::read_to_string(bench.path("export/README.md")).unwrap();
    assert!(card.contains("path: sft/train.jsonl") && !card.contains("parquet"), "{card}");
    // A set that is not exported does not stay either, nor does what a killed export left.
    fs::write(bench.path("export/sft/train.jsonl.7.partial"), "half").unwrap();
    fs::write(bench.path("export/README.md.7.partial"), "half").unwrap();
    bench.export_with(|job| ExportJob { sft: None, taught: None, ..job }).unwrap();
    let files =
        |folder: &str| fs::read_dir(bench.path(folder)).unwrap().flatten().filter(|e| e.path().is_file()).count();
    assert_eq!((files("export/sft"), files("export/rl"), files("export")), (0, 1, 1));
    bench.export_with(|job| ExportJob { rl: None, ..job }).unwrap();
    assert_eq!((files("export/sft"), files("export/rl")), (1, 0));
}

#[test]
fn a_table_or_an_array_is_exported_as_lines_are() {
    let mut bench = Bench::new(10);
    let export_rl = |bench: &Bench| {
        bench.export_with(|job| ExportJob { sft: None, taught: None, ..job })?;
        let table = fs::read(bench.path("export/rl/train.parquet")).unwrap();
        Ok::<_, ExportError>((bench.read::<RlRow>("export/rl/train.jsonl"), table))
    };
    let expected = export_rl(&bench).unwrap();
    // The table that an export wrote is read before it is replaced.
    bench.rl = "export/rl/train.parquet";
    assert_eq!(export_rl(&bench).unwrap(), expected);
    fs::write(bench.path("rl.json"), serde_json::to_string(&bench.read::<RlRow>("rl.jsonl")).unwrap()).unwrap();
    bench.rl = "rl.json";
    assert_eq!(export_rl(&bench).unwrap(), expected);
    fs::write(bench.path("sft.json"), serde_json::to_string(&bench.read::<SftRow>("sft.jsonl")).unwrap()).unwrap();
    bench.sft = "sft.json";
    let report = bench.export().unwrap();
    assert_eq!(report.sft.values().map(|size| size.rows).sum::<usize>(), 20);
    fs::write(bench.path("rl.json"), r#"[{"uid":"u","history":[],"mid_position":1}]"#).unwrap();
    let error = export_rl(&bench).unwrap_err().to_string();
    assert!(error.contains("rl.json, row 1: field `history`"), "{error}");
}

#[test]
fn the_card_says_what_is_there() {
    let mut bench = Bench::new(20);
    bench.config.license = "cc-by-4.0".into();
    bench.config.title = "Own: \"data\"".into();
    bench.config.description = "Choices of our users.".into();
    bench.config.languages = vec!["en".into(), "de".into()];
    let report = bench.export().unwrap();
    let card = fs::read_to_string(bench.path("export/README.md")).unwrap();
    let rows = report.rl[&Split::Train].rows;
    for part in [
        "license: \"cc-by-4.0\"\n",
        "pretty_name: \"Own: \\\"data\\\"\"\n",
        "language:\n- \"en\"\n- \"de\"\n",
        "size_categories:\n- n<1K\n",
        "- config_name: rl\n  data_files:\n  - split: train\n    path: rl/train.parquet\n",
        "  features:\n  - name: prompt\n    list:\n    - name: role\n      dtype: string\n",
        &format!("num_examples: {rows}\n"),
        "Choices of our users.",
        "| teacher | `a/teacher` |",
        "| import | `c0ffee` |",
        "| import | `raw/news.tsv` | `5eed` |",
        "format = \"mind\"",
        "| `eval/users.jsonl` | test | 20 | 20 |",
        "drawn with seed 7 by user id",
        // Every fifth user of the bench has a history of messages.
        "Histories of messages may have one user id per question",
    ] {
        assert!(card.contains(part), "{part} is missing in\n{card}");
    }
}

#[test]
fn sft_rows_without_users_are_split_by_prompt() {
    let bench = Bench::new(20);
    let report = bench.export_with(|job| ExportJob { taught: None, rl: None, ..job }).unwrap();
    assert!(!report.sft_users_known && report.rl.is_empty() && !bench.path("export/rl").exists());
    let users: usize = report.sft.values().map(|size| size.users).sum();
    assert_eq!(users, 40, "each of the two prompts of a user counts");
    let card = fs::read_to_string(bench.path("export/README.md")).unwrap();
    assert!(card.contains("came without user ids") && !card.contains("config_name: rl"), "{card}");
}

#[test]
fn mistakes_are_named_with_their_fix() {
    let mut bench = Bench::new(4);
    let message = |result: Result<ExportReport, ExportError>| result.unwrap_err().to_string();
    let nothing = message(bench.export_with(|job| ExportJob { sft: None, rl: None, ..job }));
    assert!(nothing.contains("nothing to export; run xplore synth prune"), "{nothing}");
    bench.config.validation_share = 1.0 - 1e-12;
    let share = message(bench.export());
    assert!(share.contains("holds out all 4 users") && share.contains("sft.jsonl"), "{share}");
    bench.config.validation_share = 0.0;
    fs::write(bench.path("users.jsonl"), "{\"uid\":\"user-0\",\"stages\":[],\"rows\":2,\"error\":null}\n").unwrap();
    let counts = message(bench.export());
    assert!(counts.contains("sft.jsonl has 8 rows, but ") && counts.contains("users.jsonl counts 2"), "{counts}");
    fs::write(bench.path("rl.jsonl"), "{\"uid\":\"u\",\"history\":[],\"mid_position\":1}\n").unwrap();
    let row = message(bench.export_with(|job| ExportJob { sft: None, ..job }));
    assert!(row.contains("rl.jsonl:1: field `history`"), "{row}");
    fs::write(bench.path("rl.jsonl"), "").unwrap();
    let empty = message(bench.export_with(|job| ExportJob { sft: None, ..job }));
    assert!(empty.contains("rl.jsonl has no rows"), "{empty}");
}

#[test]
fn a_malformed_test_user_is_named_and_leaves_no_file() {
    let bench = Bench::new(4);
    fs::write(bench.path("test.jsonl"), "{\"uid\":\"u\"}\n").unwrap();
    let error = bench.export().unwrap_err().to_string();
    assert!(error.contains("test.jsonl:1: field `interactions`"), "{error}");
    assert!(!bench.path("export/eval/users.jsonl").exists());
}

#[test]
fn without_users_to_evaluate_there_is_no_file() {
    let bench = Bench::new(4);
    bench.export().unwrap();
    assert!(bench.path("export/eval/users.jsonl").exists());
    fs::write(bench.path("test.jsonl"), "{\"uid\":\"u\",\"interactions\":[{\"chosen\":\"a\"},{\"chosen\":\"b\"}]}\n")
        .unwrap();
    let report = bench.export().unwrap();
    assert_eq!((report.eval_users, report.eval_left_out), (0, 1));
    assert_eq!(fs::read_dir(bench.path("export/eval")).unwrap().count(), 0);
}
