//! Amazon Reviews: products and their reviews in the layouts of 2018 and 2023, one category a file.
//!
//! Metadata (`meta_Books.json.gz`, `meta_Books.jsonl`): JSON lines with `asin` (2018) or `parent_asin` (2023), `title` and
//! `description`, a text or a list of texts. Reviews (`Books_5.json.gz`, `Books.jsonl`): JSON lines with `reviewerID`, `asin`,
//! `overall`, `unixReviewTime` (2018), or `user_id`, `parent_asin`, `rating`, `timestamp` (2023). Ratings without reviews
//! (`Books.csv`): with the header of 2023, or item, user, rating and time without a header (2018).
//!
//! The domain of an item is its category, the name of the file. As published, of several titled records of an item the last one
//! counts, items without a title are left out, and every rating is a choice.

use std::path::Path;

use chat::jsonl;
use configs::synth::{Duplicates, ImportOrder, NegativePolicy};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::import::collector::{Choice, Collector};
use crate::import::delimited::{self, Record, Records};
use crate::import::error::{BadRow, ImportError, number, rating as stars};
use crate::import::lines::{self, Line, Lines};
use crate::import::{Format, FormatDefaults, Source, folder};

/// The format `amazon`.
pub(super) const FORMAT: Format = Format {
    name: "amazon",
    about: "Amazon Reviews 2018 and 2023: meta_CATEGORY and CATEGORY files (JSON lines or ratings as CSV, plain or .gz)",
    defaults: FormatDefaults {
        min_history: 17,
        order: ImportOrder::Time,
        duplicates: Duplicates::Keep,
        negatives: NegativePolicy::GlobalUnseen,
        replacement: false,
    },
    unused: &["message_users"],
    read,
};

const UNTITLED: &str = "items without a title";
const UNKNOWN: &str = "reviews of items without a title or without metadata";

/// A record of a product.
#[derive(Deserialize)]
struct Product {
    asin: Option<String>,
    parent_asin: Option<String>,
    title: Option<String>,
    description: Option<Description>,
}

/// The description of a product.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Description {
    Text(String),
    Paragraphs(Vec<Option<String>>),
}

/// A review; only its existence, rating and time count.
#[derive(Deserialize)]
struct Review {
    #[serde(alias = "reviewerID")]
    user_id: Option<String>,
    asin: Option<String>,
    parent_asin: Option<String>,
    #[serde(alias = "overall")]
    rating: Option<f32>,
    #[serde(alias = "unixReviewTime")]
    timestamp: Option<i64>,
}

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let files = folder::list(source.paths)?;
    let missing = |expected: &str| {
        let path = source.paths.first().cloned().unwrap_or_default();
        ImportError::Missing { path, expected: expected.into() }
    };
    let is_meta = |path: &Path| folder::name_of(path).0.starts_with("meta_");
    let ends = |path: &Path, endings: &[&str]| endings.contains(&folder::name_of(path).1.as_str());
    let (meta, logs): (Vec<_>, Vec<_>) =
        files.into_iter().filter(|path| ends(path, &["json", "jsonl", "csv"])).partition(|path| is_meta(path));
    if meta.is_empty() {
        return Err(missing("the metadata, such as meta_Books.json.gz or meta_Books.jsonl"));
    }
    if logs.is_empty() {
        return Err(missing("reviews or ratings, such as Books_5.json.gz, Books.jsonl or Books.csv"));
    }
    source.plan(&[meta.as_slice(), logs.as_slice()].concat(), collector)?;
    for path in meta {
        let category = category(&path);
        lines::for_each(Lines::open(&path)?, collector, |collector, line| product(&path, line, &category, collector))?;
    }
    for path in logs {
        if ends(&path, &["csv"]) {
            ratings(&path, collector)?;
        } else {
            lines::for_each(Lines::open(&path)?, collector, |collector, line| review(&path, line, collector))?;
        }
    }
    Ok(())
}

/// Returns the category of a file: its name without `meta_`, endings, and the `_5` of a k-core.
fn category(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.split('.').next().unwrap_or_default();
    let name = name.strip_prefix("meta_").unwrap_or(name);
    match name.rsplit_once('_') {
        Some((before, core)) if !core.is_empty() && core.bytes().all(|b| b.is_ascii_digit()) => before.to_owned(),
        _ => name.to_owned(),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, line: Line<'_>) -> Result<T, ImportError> {
    // Only the slower parser tells the field.
    serde_json::from_str(line.text).or_else(|_| jsonl::parse(line.text)).map_err(|(field, cause)| {
        let what = if field.is_empty() { "is not a JSON object of this data set" } else { "is malformed" };
        ImportError::BadRow(BadRow::new(path, line.number, &field, format!("{what}: {cause}")))
    })
}

fn product(path: &Path, line: Line<'_>, category: &str, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let product: Product = parse(path, line)?;
    let Some(id) = product.parent_asin.or(product.asin).filter(|id| !id.is_empty()) else {
        let message = "is missing; expected the id of the product";
        return Err(ImportError::BadRow(BadRow::new(path, line.number, "asin", message)));
    };
    let title = product.title.unwrap_or_default();
    if title.trim().is_empty() {
        collector.dropped(UNTITLED, 1);
        return Ok(());
    }
    let description = match product.description {
        None => String::new(),
        Some(Description::Text(text)) => text,
        Some(Description::Paragraphs(all)) => {
            let all: Vec<String> = all.into_iter().flatten().filter(|text| !text.trim().is_empty()).collect();
            all.join(" ")
        }
    };
    collector.items.insert(&id, &format!("Title: {title}\nDescription: {description}"), Some(category));
    Ok(())
}

fn review(path: &Path, line: Line<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let review: Review = parse(path, line)?;
    let given = |value: Option<String>, field: &str, what: &str| {
        value.filter(|id| !id.is_empty()).ok_or_else(|| {
            let message = format!("is missing; expected the id of {what}");
            ImportError::BadRow(BadRow::new(path, line.number, field, message))
        })
    };
    let user = given(review.user_id, "user_id", "the user (2018: reviewerID)")?;
    let item = given(review.parent_asin.or(review.asin), "parent_asin", "the product (2018: asin)")?;
    add(collector, &user, &item, review.rating, review.timestamp)
}

/// Reads ratings without reviews.
fn ratings(path: &Path, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    // Without a header: item, user, rating, time.
    let mut columns = [1, 0, 2, 3];
    let mut first = true;
    let records = Records::new(Lines::open(path)?, b',', true);
    delimited::for_each(records, collector, |collector, path, record| {
        if std::mem::take(&mut first)
            && let Some(positions) = record.positions(["user_id", "parent_asin", "rating", "timestamp"])
        {
            columns = positions;
            return Ok(());
        }
        rating(path, record, columns, collector)
    })
}

fn rating(
    path: &Path,
    record: Record<'_>,
    columns: [usize; 4],
    collector: &mut Collector<'_>,
) -> Result<(), ImportError> {
    let names = ["user_id", "parent_asin", "rating", "timestamp"];
    let field = |place: usize| record.field(columns[place], names[place], path);
    let (user, item) = (field(0)?, field(1)?);
    let rating = stars(path, record.line, names[2], field(2)?)?;
    let time = number(path, record.line, names[3], field(3)?)?;
    add(collector, user, item, Some(rating), Some(time))
}

fn add(
    collector: &mut Collector<'_>,
    user: &str,
    item: &str,
    rating: Option<f32>,
    time: Option<i64>,
) -> Result<(), ImportError> {
    match collector.items.get(item) {
        Some(item) => collector.choice(user, Choice { item, time, rating, query: None, unclicked: &[] }),
        None => {
            collector.dropped(UNKNOWN, 1);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
