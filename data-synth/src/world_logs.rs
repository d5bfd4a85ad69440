//! The choices of users of the built-in world as raw logs in MIND's layout: what the offline example (`examples/offline`) starts from.
//!
//! An article is an item of the world. Its text up to the noun is the title, the rest the abstract, which may be empty. The first
//! clicks of a user are their history, without what was shown beside them; each later one is an impression of the two items of the
//! choice.

use indexmap::IndexSet;

use crate::lexicon::Domain;
use crate::render;
use crate::world::{LifeSpan, Population, Subject, WorldParams, users};

/// The seed of the committed logs. The quickstart takes its held-out users from seed 0, so its models have seen none of these.
pub const EXAMPLE_SEED: u64 = 1;
/// The number of users in the committed logs.
pub const EXAMPLE_USERS: usize = 80;

/// The minimum number of clicks of a user.
const LEAST_CLICKS: usize = 15;
/// The maximum number of clicks of a user.
const MOST_CLICKS: usize = 16;
/// Histories have from no clicks to one below this number.
const HISTORY_LENGTHS: usize = 2;

/// The texts of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MindLogs {
    /// The text of `news.tsv`.
    pub news: String,
    /// The text of `behaviors.tsv`.
    pub behaviors: String,
}

/// Returns the logs of the first `count` users of the world of `seed` who read news; of fewer if most read something else.
pub fn mind(seed: u64, count: usize) -> MindLogs {
    let mut articles = Articles::default();
    let readers: Vec<Reader> = readers(seed, count)
        .iter()
        .enumerate()
        .map(|(number, user)| Reader::new(number, user, &mut articles))
        .collect();
    let clicks = readers.iter().map(|reader| reader.clicks.len()).max().unwrap_or(0);
    // By time, so that the rows of a user are spread over the file.
    let rows = (0..clicks).flat_map(|click| readers.iter().filter_map(move |reader| reader.impression(click)));
    let behaviors = rows.enumerate().map(|(number, row)| format!("{}\t{row}\n", number + 1)).collect();
    MindLogs { news: articles.text(), behaviors }
}

fn readers(seed: u64, count: usize) -> Vec<Subject> {
    let world = WorldParams { seed, ..WorldParams::default() };
    let span =
        LifeSpan { least_interactions: LEAST_CLICKS, most_interactions: MOST_CLICKS, targets: 0, transfer_targets: 0 };
    // A third of the users reads news.
    let all = users(&world, Population::HeldOut, 6 * count, &span);
    all.into_iter().filter(|user| user.domain == Domain::News).take(count).collect()
}

/// The articles by text, in the order in which they were first shown.
#[derive(Default)]
struct Articles(IndexSet<String>);

impl Articles {
    fn id(&mut self, text: &str) -> String {
        id(self.0.insert_full(text.to_owned()).0)
    }

    /// Returns a row for each article: id, category, subcategory, title, abstract, URL, and entities of title and abstract.
    fn text(&self) -> String {
        let row = |(index, text): (usize, &String)| {
            let (title, summary) = title_and_abstract(text);
            format!("{}\tnews\tworld\t{title}\t{summary}\t\t[]\t[]\n", id(index))
        };
        self.0.iter().enumerate().map(row).collect()
    }
}

fn id(index: usize) -> String {
    format!("N{}", index + 1)
}

/// Splits the text of an item behind its noun.
fn title_and_abstract(text: &str) -> (&str, &str) {
    let mut end = 0;
    for word in text.split(' ') {
        end += word.len();
        if render::heads(Domain::News).contains(&word) {
            break;
        }
        end += 1;
    }
    let (title, rest) = text.split_at(end.min(text.len()));
    (title, rest.trim_start())
}

/// A user with the ids of what they clicked.
struct Reader {
    number: usize,
    /// The ids of the history, separated by spaces.
    history: String,
    /// The item of each click and the item shown beside it, which is not known of the history.
    clicks: Vec<(String, Option<String>)>,
}

impl Reader {
    fn new(number: usize, user: &Subject, articles: &mut Articles) -> Self {
        let read = number % HISTORY_LENGTHS;
        let mut clicks = Vec::with_capacity(user.history.len());
        for (click, choice) in user.history.iter().enumerate() {
            let chosen = articles.id(&choice.chosen);
            let beside = choice.rejected.as_deref().filter(|_| click >= read);
            clicks.push((chosen, beside.map(|text| articles.id(text))));
        }
        let history: Vec<&str> = clicks[..read.min(clicks.len())].iter().map(|(id, _)| id.as_str()).collect();
        Self { number, history: history.join(" "), clicks }
    }

    /// Returns the row of a click, without its number: user, time, history, and the two items in either order. `None` for clicks of the
    /// history.
    fn impression(&self, click: usize) -> Option<String> {
        let (chosen, beside) = self.clicks.get(click)?;
        let beside = beside.as_ref()?;
        let shown = match (click + self.number) % 2 {
            0 => format!("{chosen}-1 {beside}-0"),
            _ => format!("{beside}-0 {chosen}-1"),
        };
        Some(format!("U{}\t{}\t{}\t{shown}", self.number + 1, self.time(click), self.history))
    }

    /// Returns the time of a click: four a day, from 8 AM to 5 PM.
    fn time(&self, click: usize) -> String {
        let (hour, half) = [(8, "AM"), (11, "AM"), (2, "PM"), (5, "PM")][click % 4];
        format!("11/{}/2019 {hour}:{:02}:00 {half}", 11 + click / 4, self.number % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use chat::{History, jsonl};
    use configs::synth::{ImportConfig, ImportOrder};

    use super::*;
    use crate::import::import;

    /// Writes the logs and imports them.
    fn imported(logs: &MindLogs, order: Option<ImportOrder>) -> Vec<History> {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("raw");
        fs::create_dir(&raw).unwrap();
        fs::write(raw.join("news.tsv"), &logs.news).unwrap();
        fs::write(raw.join("behaviors.tsv"), &logs.behaviors).unwrap();
        let config =
            ImportConfig { format: "mind".into(), input: vec![raw], test_share: 0.0, order, ..ImportConfig::default() };
        let out = folder.path().join("import");
        let card = import(&config, 3, &out, &mut |_, _| false).unwrap();
        assert!(card.bad_rows.is_empty());
        jsonl::read(&out.join("train.jsonl")).unwrap()
    }

    /// Returns the item of an imported text.
    fn item(text: &str) -> String {
        let (title, summary) = text.strip_prefix("Title: ").unwrap().split_once("\nAbstract: ").unwrap();
        format!("{title} {summary}").trim_end().to_owned()
    }

    #[test]
    fn the_importer_finds_the_choices_of_the_world() {
        let logs = mind(5, 12);
        for order in [None, Some(ImportOrder::Time)] {
            let mut histories = imported(&logs, order);
            histories.sort_by_key(|history| history.uid[1..].parse::<usize>().unwrap());
            let subjects = readers(5, 12);
            assert_eq!((histories.len(), subjects.len()), (12, 12));
            for (number, (history, subject)) in histories.iter().zip(&subjects).enumerate() {
                assert_eq!(history.uid, format!("U{}", number + 1));
                let chosen: Vec<String> = history.interactions.iter().map(|i| item(&i.chosen)).collect();
                let expected: Vec<&str> = subject.history.iter().map(|i| i.chosen.as_str()).collect();
                assert_eq!(chosen, expected);
                // What was shown beside a click of the history is not in the logs, so another item was drawn.
                for (found, made) in history.interactions.iter().zip(&subject.history).skip(number % HISTORY_LENGTHS) {
                    assert_eq!(item(found.rejected.as_deref().unwrap()), made.rejected.as_deref().unwrap());
                }
            }
        }
    }

    #[test]
    fn a_text_is_split_behind_its_noun() {
        let cases = [
            ("the solemn article about science", ("the solemn article", "about science")),
            ("a brief piece", ("a brief piece", "")),
            ("no noun at all", ("no noun at all", "")),
        ];
        for (text, parts) in cases {
            assert_eq!(title_and_abstract(text), parts);
        }
    }

    #[test]
    fn rows_are_in_the_order_of_time_and_seeds_differ() {
        let logs = mind(5, 4);
        let rows: Vec<Vec<&str>> = logs.behaviors.lines().map(|line| line.split('\t').collect()).collect();
        assert!(rows.iter().enumerate().all(|(index, row)| row.len() == 5 && row[0] == (index + 1).to_string()));
        // The first user has no history, the fourth one of a single click.
        assert_eq!((rows[0][1], rows[0][2], rows[0][3]), ("U1", "11/11/2019 8:00:00 AM", ""));
        let fourth = rows.iter().find(|row| row[1] == "U4").unwrap();
        assert_eq!((fourth[2], fourth[3].starts_with('N')), ("11/11/2019 11:03:00 AM", true));
        assert_ne!(mind(6, 4), logs);
        assert_eq!(mind(5, 4), logs);
    }
}
