//! Pruning of flat records.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use chat::jsonl::{self, JsonlError};
use chat::{Interaction, RlRow};
use configs::{PruningConfig, PruningRule};

use super::rule::{self, Pair, ScoredChoice};
use super::{PruneError, number, row};
use crate::rl_rows::PruningReport;
use crate::signal::FlatRecord;

/// What is kept of a file of records.
struct Records {
    /// The index of each user, by id.
    users: HashMap<String, u32>,
    /// The choices, in the order of the file.
    choices: Vec<ScoredChoice>,
}

/// The items of a user up to the later target, as far as they were read.
struct OpenRow {
    uid: String,
    items: Vec<Option<Interaction>>,
    read: usize,
}

/// Prunes a file of flat records. The order of a user's choices is that of `pref_idx`, or else of `hid`, or else of the file.
pub(super) fn prune(input: &Path, out: &Path, config: &PruningConfig) -> Result<PruningReport, PruneError> {
    let Records { users, choices } = collect(input, config.rule)?;
    let positions: Vec<u32> = choices.iter().map(|choice| choice.position).collect();
    let mut report = PruningReport { users: users.len(), ..PruningReport::default() };
    let band = rule::select(choices, config, &mut report);
    let pairs = rule::pairs(band, config, |_| false);
    report.rows = pairs.len();
    let ranks: HashMap<u32, usize> = pairs.iter().enumerate().map(|(rank, pair)| (pair.user(), rank)).collect();
    jsonl::write_with::<RlRow, PruneError>(out, |write| {
        let mut open: HashMap<usize, OpenRow> = HashMap::new();
        let (mut complete, mut next) = (BTreeMap::new(), 0);
        for (record, &position) in jsonl::stream::<FlatRecord>(input)?.zip(&positions) {
            let (_, record) = record?;
            let Some(&rank) = users.get(&record.uid).and_then(|user| ranks.get(user)) else { continue };
            let pair = &pairs[rank];
            if position > pair.last.position {
                continue;
            }
            if let Some(history) = add(&mut open, rank, pair, position as usize, record) {
                complete.insert(rank, history);
            }
            while let Some(OpenRow { uid, items, .. }) = complete.remove(&next) {
                let history = items.into_iter().flatten().collect();
                write(&row::of_interactions(uid, history, &pairs[next]))?;
                next += 1;
            }
        }
        Ok(())
    })?;
    Ok(report)
}

/// Adds an item to the row of its user, and returns the row when it is complete.
fn add(
    open: &mut HashMap<usize, OpenRow>,
    rank: usize,
    pair: &Pair,
    position: usize,
    record: FlatRecord,
) -> Option<OpenRow> {
    let length = pair.last.position as usize + 1;
    let begun = open.entry(rank).or_insert_with(|| OpenRow { uid: record.uid, items: vec![None; length], read: 0 });
    begun.items[position] = Some(record.original_history_item);
    begun.read += 1;
    if begun.read == length { open.remove(&rank) } else { None }
}

/// Reads the numbers of all records.
fn collect(input: &Path, rule: PruningRule) -> Result<Records, JsonlError> {
    let (mut users, mut choices) = (HashMap::new(), Vec::new());
    // For each record, its place in the order of the user's choices, and the hash of its item.
    let mut orders: Vec<(u64, u64)> = Vec::new();
    // For each user, the field that orders the choices.
    let mut ordered_by: Vec<Option<&str>> = Vec::new();
    for row in jsonl::stream::<FlatRecord>(input)? {
        let (line, record) = row?;
        let known = number(users.len());
        let user = *users.entry(record.uid.clone()).or_insert(known);
        let by = record.place().map(|(field, _)| field);
        if user == known {
            ordered_by.push(by);
        } else if ordered_by[user as usize] != by {
            return Err(mixed(input, line, &record));
        }
        let mut hash = DefaultHasher::new();
        record.original_history_item.hash(&mut hash);
        orders.push((record.place().map_or(orders.len() as u64, |(_, place)| place), hash.finish()));
        choices.push(ScoredChoice { user, position: 0, first: 0, record: record.record() });
    }
    let mut sorted: Vec<usize> = (0..choices.len()).collect();
    // Stable: records without an order keep that of the file.
    let place = |i: usize| (choices[i].user, orders[i].0);
    sorted.sort_by_key(|&i| place(i));
    if let Some(pair) = sorted.windows(2).find(|pair| place(pair[0]) == place(pair[1])) {
        return Err(twice(input, pair[1])?);
    }
    let (mut seen, mut user, mut position) = (HashMap::new(), None, 0);
    for i in sorted {
        if user != Some(choices[i].user) {
            seen.clear();
            (user, position) = (Some(choices[i].user), 0);
        }
        let first = *seen.entry(orders[i].1).or_insert(position);
        choices[i].position = position;
        choices[i].first = if rule == PruningRule::Published { first } else { position };
        position += 1;
    }
    Ok(Records { users, choices })
}

/// Returns the error of a record whose place is given in another field than that of the user's records before it.
fn mixed(path: &Path, line: usize, record: &FlatRecord) -> JsonlError {
    let message = format!(
        "the fields `pref_idx` and `hid` order the choices of a user; expected all records of `{}` to have the same of them, or none",
        record.uid
    );
    JsonlError::Line { path: path.into(), line, message }
}

/// Returns the error of the record with this index, whose place another record of the user has.
fn twice(path: &Path, index: usize) -> Result<JsonlError, JsonlError> {
    let Some(row) = jsonl::stream::<FlatRecord>(path)?.nth(index) else {
        return Ok(JsonlError::Empty { path: path.into() });
    };
    let (line, record) = row?;
    let (field, place) = record.place().unwrap_or_default();
    let message =
        format!("field `{field}` is {place}, as in another record of `{}`; expected another value", record.uid);
    Ok(JsonlError::Line { path: path.into(), line, message })
}
