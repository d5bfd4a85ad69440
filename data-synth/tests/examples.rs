//! Checks that the committed example files match their README.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chat::prompts::Candidate;
use chat::{Interaction, PromptSet, reasoning};
use data_synth::importer;
use data_synth::world_logs::{self, EXAMPLE_SEED, EXAMPLE_USERS};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn prompts(set: &str) -> PromptSet {
    PromptSet::new(set, &configs::prompts::sources(set).unwrap()).unwrap()
}

#[test]
fn histories_and_rl_rows_are_of_the_same_users() {
    let histories = importer::histories(&example("histories.jsonl")).unwrap();
    let rows = importer::rl(&example("rl.jsonl")).unwrap();
    let uids: BTreeSet<&str> = histories.iter().map(|h| h.uid.as_str()).collect();
    assert_eq!((uids.len(), histories.len()), (12, 12));
    for (history, row) in histories.iter().zip(&rows) {
        assert_eq!(&importer::history_of(row), history);
        assert_eq!(row.distance_to_end, row.history.len() - 1 - row.mid_position);
        for target in [&row.history[row.mid_position], &row.history[row.history.len() - 1]] {
            assert!(target.rejected.is_some(), "{}", row.uid);
        }
    }
    let domains: BTreeSet<&str> =
        histories.iter().flat_map(|h| &h.interactions).filter_map(|i| i.domain.as_deref()).collect();
    assert_eq!(domains.into_iter().collect::<Vec<_>>(), ["news", "product", "reply"]);
}

/// Each pair of rows is of one user: the first three choices, then the next three with the first summary as the past.
#[test]
fn sft_rows_pass_the_format_gate_and_have_the_wording_of_the_plain_set() {
    let (rows, histories) = (importer::sft(&example("sft.jsonl")).unwrap(), example("histories.jsonl"));
    let histories = importer::histories(&histories).unwrap();
    let plain = prompts("plain");
    assert_eq!(rows.len(), 12);
    for pair in rows.chunks(2) {
        let first = reasoning::split(&pair[0].completion[0].content).unwrap();
        assert!(reasoning::split(&pair[1].completion[0].content).is_some());
        let user = histories
            .iter()
            .find(|user| plain.summarize(None, &user.interactions[..3]).unwrap() == pair[0].prompt)
            .unwrap_or_else(|| panic!("no user's first three choices are those of {:?}", pair[0].prompt));
        let second = plain.summarize(Some(first.summary), &user.interactions[3..6]).unwrap();
        assert_eq!(second, pair[1].prompt, "{}", user.uid);
    }
}

/// `cargo run --release -p data-synth --example world_logs -- examples/offline/logs` writes the files again.
#[test]
fn the_raw_logs_of_the_offline_example_are_those_of_the_program() {
    let logs = world_logs::mind(EXAMPLE_SEED, EXAMPLE_USERS);
    let read = |name: &str| std::fs::read_to_string(example("offline/logs").join(name)).unwrap();
    assert!(read("news.tsv") == logs.news && read("behaviors.tsv") == logs.behaviors, "run the example world_logs");
    let users: BTreeSet<&str> = logs.behaviors.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(users.len(), EXAMPLE_USERS);
}

/// The models of the quickstart read the prompts that they were trained on, without the labels of MIND.
#[test]
fn the_prompts_of_the_offline_example_have_the_wording_of_the_quickstart() {
    let (compact, offline) = (prompts("compact"), prompts(example("offline/prompts").to_str().unwrap()));
    let choice = |chosen: &str, rejected: &str| Interaction {
        chosen: chosen.into(),
        rejected: Some(rejected.into()),
        ..Interaction::default()
    };
    let plain = vec![choice("the dry article about science", "a brief piece"); 11];
    let labeled =
        vec![choice("Title: the dry article\nAbstract: about science", "Title: a brief piece\nAbstract: "); 11];
    let [a, b] = [&plain[0].chosen, plain[0].rejected.as_ref().unwrap()];
    let [title_a, title_b] = [&labeled[0].chosen, labeled[0].rejected.as_ref().unwrap()];
    for past in [None, Some("They like science.")] {
        assert_eq!(offline.summarize(past, &labeled).unwrap(), compact.summarize(past, &plain).unwrap());
        let taught = offline.teach(past, &labeled, None, title_a, title_b).unwrap();
        assert_eq!(taught, compact.teach(past, &plain, None, a, b).unwrap());
        let candidates = [Candidate { reasoning: "r".into(), preference: "p".into() }];
        assert_eq!(offline.merge(past, &candidates).unwrap(), compact.merge(past, &candidates).unwrap());
    }
    assert_eq!(offline.judge(None, "p", title_a, title_b).unwrap(), compact.judge(None, "p", a, b).unwrap());
}
