//! Checks that the committed example files match their README.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use chat::reasoning;
use data_synth::importer;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
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

#[test]
fn sft_rows_pass_the_format_gate_and_carry_the_summary_on() {
    let rows = importer::sft(&example("sft.jsonl")).unwrap();
    assert_eq!(rows.len(), 12);
    for pair in rows.chunks(2) {
        let first = reasoning::split(&pair[0].completion[0].content).unwrap();
        assert!(reasoning::split(&pair[1].completion[0].content).is_some());
        assert!(pair[0].prompt[0].content.starts_with("past: Not Provided.\n"));
        assert!(pair[1].prompt[0].content.starts_with(&format!("past: {}\n", first.summary)));
    }
}
