//! What an import left out.

use std::collections::BTreeMap;

use crate::import::error::BadRow;

/// The maximum number of malformed rows that are described.
const DESCRIBED: usize = 5;

/// Rows, choices and users that were left out, by reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) dropped: BTreeMap<&'static str, u64>,
    pub(super) bad_rows: BTreeMap<String, u64>,
    pub(super) examples: Vec<String>,
}

impl Ledger {
    pub(super) fn dropped(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.dropped.entry(reason).or_default() += count;
        }
    }

    pub(super) fn bad(&mut self, row: &BadRow) {
        *self.bad_rows.entry(row.reason()).or_default() += 1;
        if self.examples.len() < DESCRIBED {
            self.examples.push(row.to_string());
        }
    }

    /// Lists the reasons with their counts.
    pub(super) fn reasons(&self) -> String {
        let bad = self.bad_rows.iter().map(|(reason, count)| format!("{count} malformed ({reason})"));
        let dropped = self.dropped.iter().map(|(reason, count)| format!("{count} {reason}"));
        let all: Vec<String> = dropped.chain(bad).collect();
        if all.is_empty() { "nothing was left out".into() } else { all.join(", ") }
    }
}
