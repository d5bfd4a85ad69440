//! MIND: news articles, and impressions of which some were clicked.
//!
//! `news.tsv`: id, category, subcategory, title, abstract, URL, entities of the title, entities of the abstract.
//! `behaviors.tsv`: impression, user, time, history (ids), impressions (`N1-1 N2-0`). Neither has a header.
//!
//! As published, the history of a user is the longest history of their rows, before the clicks of all impressions in the order of
//! the files.

use std::collections::HashMap;
use std::path::Path;

use chrono::NaiveDateTime;
use configs::synth::{Duplicates, ImportOrder, NegativePolicy, Quotes};

use crate::import::collector::{Choice, Collector};
use crate::import::delimited::{self, Record, Records};
use crate::import::error::{BadRow, ImportError};
use crate::import::items::{ItemId, ItemTable};
use crate::import::lines::Lines;
use crate::import::{Format, FormatDefaults, Options, Source, folder};

/// The format `mind`.
pub(super) const FORMAT: Format = Format {
    name: "mind",
    about: "MIND news: folders with news.tsv and behaviors.tsv (train and dev are merged by user)",
    defaults: FormatDefaults {
        min_history: 9,
        order: ImportOrder::File,
        duplicates: Duplicates::Keep,
        negatives: NegativePolicy::InSession,
        replacement: true,
    },
    unused: &["rating_threshold", "message_users"],
    read,
};

const EXPECTED: &str = "news.tsv and behaviors.tsv, in a folder or as files";
const DOMAIN: &str = "news";
const TIME: &str = "%m/%d/%Y %I:%M:%S %p";
const UNKNOWN: &str = "clicks on items without metadata";

/// The texts that pandas, with which the released importer reads the files, takes as missing.
const MISSING: [&str; 18] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
    "NaN", "None", "n/a", "nan", "null",
];

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let news_files = folder::required(source.paths, "news", &["tsv"], EXPECTED)?;
    let behaviors = folder::required(source.paths, "behaviors", &["tsv"], EXPECTED)?;
    // The behaviors are read twice.
    source.plan(&[news_files.as_slice(), behaviors.as_slice(), behaviors.as_slice()].concat(), collector)?;
    for path in news_files {
        let records = open(&path, source.options)?;
        delimited::for_each(records, collector, |collector, path, record| {
            news(path, record, source.options, &mut collector.items)
        })?;
    }
    let mut longest = HashMap::new();
    for path in &behaviors {
        longest_histories(path, source.options, collector, &mut longest)?;
    }
    for path in &behaviors {
        let records = open(path, source.options)?;
        delimited::for_each(records, collector, |collector, path, record| {
            let row = Row::parse(path, record, source.options)?;
            if let Some(history) = longest.remove(row.user) {
                collector.dropped(UNKNOWN, history.unknown);
                for &item in &history.items {
                    collector
                        .choice(row.user, Choice { item, time: None, rating: None, query: None, unclicked: &[] })?;
                }
            }
            clicks(&row, collector)
        })?;
    }
    Ok(())
}

fn open(path: &Path, options: &Options) -> Result<Records, ImportError> {
    Ok(Records::new(Lines::open(path)?, b'\t', options.quotes == Quotes::Published))
}

/// Returns a field, without what the released reader takes as missing.
fn value<'a>(record: &Record<'a>, field: usize, options: &Options) -> &'a str {
    let text = record.get(field).unwrap_or_default();
    if options.quotes == Quotes::Published && MISSING.contains(&text) { "" } else { text }
}

fn news(path: &Path, record: Record<'_>, options: &Options, items: &mut ItemTable) -> Result<(), ImportError> {
    record.expect(8, path)?;
    let [id, title, summary] = [0, 3, 4].map(|field| value(&record, field, options));
    if id.is_empty() {
        return Err(ImportError::BadRow(BadRow::new(
            path,
            record.line,
            "NewsID",
            "is empty; expected the id of an article",
        )));
    }
    items.insert(id, &format!("Title: {title}\nAbstract: {summary}"), Some(DOMAIN));
    Ok(())
}

/// A row of `behaviors.tsv`.
struct Row<'a> {
    user: &'a str,
    time: Option<i64>,
    history: &'a str,
    /// Each id with whether it was clicked.
    shown: Vec<(&'a str, bool)>,
}

impl<'a> Row<'a> {
    fn parse(path: &Path, record: Record<'a>, options: &Options) -> Result<Self, ImportError> {
        record.expect(5, path)?;
        let bad = |field, message: String| ImportError::BadRow(BadRow::new(path, record.line, field, message));
        let [user, time, history, impressions] = [1, 2, 3, 4].map(|field| value(&record, field, options));
        if user.is_empty() {
            return Err(bad("UserID", "is empty; expected the id of a user".into()));
        }
        let time = if options.order == ImportOrder::Time {
            let parsed = NaiveDateTime::parse_from_str(time.trim(), TIME);
            let parsed =
                parsed.map_err(|_| bad("Time", format!("is `{time}`; expected a time as 11/15/2019 8:55:22 AM")))?;
            Some(parsed.and_utc().timestamp())
        } else {
            None
        };
        let clicked = |shown: &'a str| match shown.rsplit_once('-') {
            Some((id, "0")) if !id.is_empty() => Ok((id, false)),
            Some((id, "1")) if !id.is_empty() => Ok((id, true)),
            _ => Err(bad("Impressions", format!("has `{shown}`; expected an id with -0 or -1, such as N55689-1"))),
        };
        let shown = impressions.split_whitespace().map(clicked).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { user, time, history, shown })
    }
}

/// The longest history of a user.
struct Longest {
    characters: usize,
    items: Box<[ItemId]>,
    /// The number of ids without metadata.
    unknown: u64,
}

/// Finds the longest history of each user, of equally long ones the first. Malformed rows are left to the second reading.
fn longest_histories(
    path: &Path,
    options: &Options,
    collector: &mut Collector<'_>,
    longest: &mut HashMap<Box<str>, Longest>,
) -> Result<(), ImportError> {
    let mut records = open(path, options)?;
    collector.begin(path);
    loop {
        collector.advance(records.bytes_read())?;
        let record = match records.next() {
            Ok(None) => return Ok(()),
            Ok(Some(record)) => record,
            Err(ImportError::BadRow(_)) => continue,
            Err(e) => return Err(e),
        };
        let Ok(row) = Row::parse(path, record, options) else { continue };
        let characters = row.history.len();
        if longest.get(row.user).is_some_and(|known| known.characters >= characters) {
            continue;
        }
        let ids = row.history.split_whitespace();
        let found: Box<[ItemId]> = ids.clone().filter_map(|id| collector.items.get(id)).collect();
        let unknown = (ids.count() - found.len()) as u64;
        longest.insert(row.user.into(), Longest { characters, items: found, unknown });
    }
}

/// Adds the clicks of an impression.
fn clicks(row: &Row<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let clicked: Vec<&str> = row.shown.iter().filter(|(_, clicked)| *clicked).map(|&(id, _)| id).collect();
    // An id that one impression lists twice, once as clicked, was clicked.
    let rest = row.shown.iter().filter(|(id, chosen)| !chosen && !clicked.contains(id));
    let unclicked: Vec<ItemId> = rest.filter_map(|(id, _)| collector.items.get(id)).collect();
    for id in clicked {
        match collector.items.get(id) {
            Some(item) => {
                let choice = Choice { item, time: row.time, rating: None, query: None, unclicked: &unclicked };
                collector.choice(row.user, choice)?;
            }
            None => collector.dropped(UNKNOWN, 1),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::testing::{Imported, import_files, texts};

    const NEWS: &str = "N1\tsports\tgolf\tPutting \"well\"\tOn greens.\thttps://a\t[]\t[]\n\
                        N2\tnews\tworld\t\"A \"\"great\"\"\ttab\"\tNA\thttps://b\t[]\t[]\n\
                        N3\tnews\tus\tNo abstract\t\thttps://c\t[]\t[]\n\
                        N4\tnews\tus\tFour\t4\thttps://d\t[]\t[]\n\
                        N5\tnews\tus\tFive\t5\thttps://e\t[]\t[]\n";

    fn config() -> ImportConfig {
        ImportConfig { format: "mind".into(), min_history: Some(1), test_share: 0.0, ..ImportConfig::default() }
    }

    fn of_behaviors(behaviors: &str, config: &ImportConfig) -> Result<Imported, String> {
        import_files(&[("news.tsv", NEWS.as_bytes()), ("behaviors.tsv", behaviors.as_bytes())], config, 7)
    }

    fn title(text: &str) -> &str {
        text.strip_prefix("Title: ").unwrap().split('\n').next().unwrap()
    }

    /// Returns the titles of the chosen items.
    fn chosen(imported: &Imported, user: usize) -> Vec<&str> {
        imported.train[user].interactions.iter().map(|i| title(&i.chosen)).collect()
    }

    #[test]
    fn fields_are_read_as_the_released_reader_does() {
        let behaviors = "1\tU1\t11/15/2019 8:55:22 AM\tN1 N2 N3\tN4-1 N5-0\n";
        let imported = of_behaviors(behaviors, &config()).unwrap();
        let expected = [
            "Title: Putting \"well\"\nAbstract: On greens.",
            "Title: A \"great\"\ttab\nAbstract: ",
            "Title: No abstract\nAbstract: ",
            "Title: Four\nAbstract: 4",
        ];
        assert_eq!(texts(&imported.train[0].interactions), expected);
        let last = &imported.train[0].interactions[3];
        // In the session, only N5 was not clicked.
        assert_eq!(last.rejected.as_deref(), Some("Title: Five\nAbstract: 5"));
        assert_eq!((last.query.as_deref(), last.domain.as_deref()), (None, Some("news")));
        assert_eq!(last.task.as_deref(), Some("recommendation"));

        // N2's quoted tab gives a ninth field; `NA` is text.
        let plain = ImportConfig { quotes: Quotes::Plain, ..config() };
        let error = of_behaviors(behaviors, &plain).unwrap_err();
        assert!(error.contains("news.tsv:2: has 9 fields; expected 8"), "{error}");
        let news = "N1\ta\tb\t\"One\"\tNA\t\t\t\nN2\ta\tb\tTwo\t2\t\t\t\n";
        let behaviors = "1\tU1\t\tN1\tN1-1 N2-0\n";
        let files = [("news.tsv", news.as_bytes()), ("behaviors.tsv", behaviors.as_bytes())];
        let imported = import_files(&files, &plain, 7).unwrap();
        assert_eq!(imported.train[0].interactions[0].chosen, "Title: \"One\"\nAbstract: NA");
    }

    #[test]
    fn the_longest_history_comes_before_the_clicks_of_all_files() {
        let train = "1\tU1\t11/11/2019 9:05:58 AM\tN1\tN4-1 N5-0\n\
                     2\tU2\t11/11/2019 9:05:58 AM\t\tN1-0 N2-1\n";
        let dev = "1\tU1\t11/12/2019 9:05:58 PM\tN1 N2 N1\tN5-0 N3-1 N4-1\n";
        let files = [
            ("train/news.tsv", NEWS.as_bytes()),
            ("train/behaviors.tsv", train.as_bytes()),
            ("dev/news.tsv", NEWS.as_bytes()),
            ("dev/behaviors.tsv", dev.as_bytes()),
        ];
        let imported = import_files(&files, &config(), 7).unwrap();
        let one = "Putting \"well\"";
        let two = "A \"great\"\ttab";
        assert_eq!(chosen(&imported, 0), [one, two, one, "Four", "No abstract", "Four"]);
        assert_eq!(chosen(&imported, 1), [two]);
        assert_eq!(imported.train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["U1", "U2"]);
        // Clicks of U1 on N4 and N3 in impressions with N5 alone not clicked.
        let rejected: Vec<&str> =
            imported.train[0].interactions[3..].iter().map(|i| title(i.rejected.as_deref().unwrap())).collect();
        assert_eq!(rejected, ["Five"; 3]);
        // U1 chose all but N5, so it is the only one unseen.
        assert!(imported.train[0].interactions.iter().all(|i| title(i.rejected.as_deref().unwrap()) == "Five"));

        let once = ImportConfig { duplicates: Some(Duplicates::Items), ..config() };
        let imported = import_files(&files, &once, 7).unwrap();
        assert_eq!(chosen(&imported, 0), [one, two, "Four", "No abstract"]);
        assert_eq!(imported.card.dropped, BTreeMap::from([("repeated choices".into(), 2)]));
    }

    #[test]
    fn clicks_can_be_put_in_the_order_of_time() {
        let behaviors = "1\tU1\t11/15/2019 8:55:22 PM\tN1\tN2-1 N5-0\n\
                         2\tU1\t11/15/2019 9:00:00 AM\tN1\tN3-1 N5-0\n";
        let config = |order| ImportConfig { order: Some(order), ..config() };
        let one = "Putting \"well\"";
        let two = "A \"great\"\ttab";
        let imported = of_behaviors(behaviors, &config(ImportOrder::File)).unwrap();
        assert_eq!(chosen(&imported, 0), [one, two, "No abstract"]);
        let imported = of_behaviors(behaviors, &config(ImportOrder::Time)).unwrap();
        assert_eq!(chosen(&imported, 0), [one, "No abstract", two]);
        let error = of_behaviors(&behaviors.replace("9:00:00 AM", "21:00"), &config(ImportOrder::Time)).unwrap_err();
        assert!(error.contains("behaviors.tsv:2: field `Time` is `11/15/2019 21:00`"), "{error}");
    }

    #[test]
    fn an_id_that_was_clicked_is_no_negative_of_its_impression() {
        let behaviors = "1\tU1\t\t\tN1-1 N1-0 N2-0\n";
        for seed in 0..20 {
            let files = [("news.tsv", NEWS.as_bytes()), ("behaviors.tsv", behaviors.as_bytes())];
            let imported = import_files(&files, &config(), seed).unwrap();
            let rejected = imported.train[0].interactions[0].rejected.as_deref().unwrap();
            assert_eq!(title(rejected), "A \"great\"\ttab");
        }
    }

    #[test]
    fn malformed_rows_are_named_or_counted() {
        let good = "1\tU1\t\tN1 N9\tN4-1 N5-0\n";
        for (bad, words) in [
            ("2\tU1\t\tN1", "behaviors.tsv:2: has 4 fields; expected 5"),
            ("2\t\t\tN1\tN4-1", "behaviors.tsv:2: field `UserID` is empty"),
            ("2\tU1\t\tN1\tN4-1 N5", "behaviors.tsv:2: field `Impressions` has `N5`; expected an id with -0 or -1"),
            ("2\tU1\t\tN1\tN4-1 N5-2", "behaviors.tsv:2: field `Impressions` has `N5-2`"),
            ("2\tU1\t\t\"N1\tN4-1", "behaviors.tsv:2: has a field that begins with a quotation mark"),
        ] {
            let error = of_behaviors(&format!("{good}{bad}\n"), &config()).unwrap_err();
            assert!(error.contains(words) && error.contains("--skip-bad"), "{error}");
            let skipped = ImportConfig { skip_bad: true, ..config() };
            let imported = of_behaviors(&format!("{good}{bad}\n"), &skipped).unwrap();
            assert_eq!(imported.card.bad_rows.values().sum::<u64>(), 1, "{bad}");
            assert!(imported.card.bad_row_examples[0].contains(words));
            assert_eq!(chosen(&imported, 0), ["Putting \"well\"", "Four"]);
            assert_eq!(imported.card.dropped, BTreeMap::from([(UNKNOWN.into(), 1)]));
        }
        let error = of_behaviors(&format!("{good}2\tU1\t\tN1\tN4-1 N"), &config()).unwrap_err();
        assert!(error.contains("the last line of the file has no line end: the file may be cut off"), "{error}");
        let error = import_files(&[("news.tsv", NEWS.as_bytes())], &config(), 7).unwrap_err();
        assert!(error.contains("expected news.tsv and behaviors.tsv"), "{error}");
    }

    #[test]
    fn users_with_few_pairs_are_left_out() {
        let behaviors = "1\tU1\t\tN1\tN4-1 N5-0\n2\tU2\t\tN1 N2\tN4-1 N5-0\n";
        let three = ImportConfig { min_history: Some(3), ..config() };
        let imported = of_behaviors(behaviors, &three).unwrap();
        assert_eq!(imported.train.iter().map(|user| user.uid.as_str()).collect::<Vec<_>>(), ["U2"]);
        assert_eq!(
            imported.card.dropped,
            BTreeMap::from([("users with a history below import.min_history".into(), 1)])
        );
        // The published minimum is 9 pairs.
        let published = ImportConfig { min_history: None, ..config() };
        let error = of_behaviors(behaviors, &published).unwrap_err();
        assert!(error.contains("no user is left of 2 read (2 users with a history below"), "{error}");
        assert!(error.contains("(now 9)"), "{error}");
    }
}
