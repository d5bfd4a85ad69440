use std::sync::Arc;

use configs::synth::{Duplicates, ImportConfig};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::import::testing::{Imported, import_files, texts};

fn config(columns: ColumnsConfig) -> ImportConfig {
    ImportConfig { format: "generic".into(), test_share: 0.0, columns, ..ImportConfig::default() }
}

fn imported(name: &str, content: &[u8], config: &ImportConfig) -> Result<Imported, String> {
    import_files(&[(name, content)], config, 1)
}

fn pairs() -> ColumnsConfig {
    ColumnsConfig { chosen: "good".into(), rejected: "bad".into(), ..ColumnsConfig::default() }
}

fn positives() -> ColumnsConfig {
    ColumnsConfig { item: "item".into(), text: "title".into(), ..ColumnsConfig::default() }
}

#[test]
fn each_column_of_a_pair_is_read() {
    let columns = ColumnsConfig {
        user: "who".into(),
        query: "q".into(),
        time: "at".into(),
        domain: "area".into(),
        task: "kind".into(),
        ..pairs()
    };
    let text = r#"{"who": 7, "q": "why?", "good": "late", "bad": "x", "at": "2026-01-02", "area": "books", "kind": "recommendation"}
{"who": 7, "q": null, "good": "early", "bad": null, "at": "2026-01-01T10:00:00Z", "area": "", "kind": null, "more": [1]}
{"who": "8", "good": "a", "bad": "b", "at": 5}
{"who": "8", "good": "c", "bad": "d", "at": 4.5}
"#;
    let train = imported("rows.jsonl", text.as_bytes(), &config(columns)).unwrap().train;
    let late = Interaction {
        query: Some("why?".into()),
        chosen: "late".into(),
        rejected: Some("x".into()),
        domain: Some("books".into()),
        task: Some("recommendation".into()),
    };
    let early = Interaction { chosen: "early".into(), ..Interaction::default() };
    assert_eq!((train[0].uid.as_str(), &train[0].interactions), ("7", &vec![early, late]));
    assert_eq!((train[1].uid.as_str(), texts(&train[1].interactions)), ("8", vec!["c", "a"]));
}

#[test]
fn all_types_of_files_hold_the_same() {
    let rows = [("u", "first, \"one\"", "x"), ("u", "second", "y"), ("v", "third", "x"), ("v", "fourth", "z")];
    let json: Vec<String> = rows
        .iter()
        .map(|(user, good, bad)| serde_json::json!({"user": user, "good": good, "bad": bad}).to_string())
        .collect();
    let separated = |sign: &str, end: &str| {
        let lines = rows
            .iter()
            .map(|(user, good, bad)| format!("{user}{sign}\"{}\"{sign}{bad}{end}", good.replace('"', "\"\"")));
        format!("\u{feff}user{sign}good{sign}bad{end}{}", lines.collect::<String>())
    };
    let semicolons = ColumnsConfig { delimiter: ";".into(), ..pairs() };
    let files = [
        ("rows.jsonl", json.join("\r\n").into_bytes(), pairs()),
        ("rows.json", format!("[{}]", json.join(", ")).into_bytes(), pairs()),
        ("rows.csv", separated(",", "\r\n").into_bytes(), pairs()),
        ("rows.tsv", separated("\t", "\n").into_bytes(), pairs()),
        ("rows.csv", separated(";", "\n").into_bytes(), semicolons),
        ("rows.parquet", parquet(&rows), pairs()),
    ];
    for (name, content, columns) in files {
        let train = imported(name, &content, &config(columns)).unwrap().train;
        let found: Vec<(&str, Vec<&str>)> =
            train.iter().map(|user| (user.uid.as_str(), texts(&user.interactions))).collect();
        assert_eq!(found, [("u", vec!["first, \"one\"", "second"]), ("v", vec!["third", "fourth"])], "{name}");
        assert_eq!(train[0].interactions[0].rejected.as_deref(), Some("x"), "{name}");
    }
}

fn parquet(rows: &[(&str, &str, &str)]) -> Vec<u8> {
    let fields = "required binary user (UTF8); required binary good (UTF8); required binary bad (UTF8);";
    let schema = parse_message_type(&format!("message rows {{ {fields} }}")).unwrap();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let [user, good, bad] = [0, 1, 2].map(|at| rows.iter().map(|row| [row.0, row.1, row.2][at]).collect::<Vec<_>>());
    for cells in [user, good, bad] {
        let values: Vec<ByteArray> = cells.into_iter().map(ByteArray::from).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

const POSITIVES: &str = "user,item,title,stars,area\nu,1,one,5,news\nu,2,two,1,news\nu,3,three,4,sport\nv,4,four,5,news\n\
                         v,5,five,5,news\nv,6,six,3,sport\n";

#[test]
fn positives_get_rejected_items_and_drop_low_ratings() {
    let columns = ColumnsConfig { rating: "stars".into(), domain: "area".into(), ..positives() };
    let all = imported("rows.csv", POSITIVES.as_bytes(), &config(columns.clone())).unwrap().train;
    assert_eq!(all.iter().map(|user| texts(&user.interactions).len()).collect::<Vec<_>>(), [3, 3]);
    let third = &all[0].interactions[2];
    assert_eq!((third.domain.as_deref(), third.task.as_deref()), (Some("sport"), Some("recommendation")));
    assert_eq!(third.rejected.as_deref(), Some("six"), "the item of its domain that the user never chose");
    let good = ImportConfig { rating_threshold: Some(4.0), ..config(columns) };
    let Imported { train, card, .. } = imported("rows.csv", POSITIVES.as_bytes(), &good).unwrap();
    assert_eq!(texts(&train[0].interactions), ["one", "three"]);
    assert_eq!(texts(&train[1].interactions), ["four", "five"]);
    assert_eq!(card.dropped["choices with a rating below import.rating_threshold"], 2);
}

#[test]
fn choices_without_a_rating_have_a_reason_of_their_own() {
    let columns = ColumnsConfig { rating: "stars".into(), ..positives() };
    let config = ImportConfig { rating_threshold: Some(4.0), min_history: Some(1), ..config(columns) };
    let text = POSITIVES.replace("two,1", "two,");
    let Imported { train, card, .. } = imported("rows.csv", text.as_bytes(), &config).unwrap();
    assert_eq!(texts(&train[0].interactions), ["one", "three"]);
    assert_eq!(card.dropped["choices without a rating, which import.rating_threshold needs"], 1);
    assert_eq!(card.dropped["choices with a rating below import.rating_threshold"], 1);
}

#[test]
fn a_damaged_parquet_file_cannot_be_skipped() {
    let mut damaged = parquet(&[("u", "a", "b"), ("u", "c", "d")]);
    // The header of the first page is behind the four letters that begin the file.
    damaged[4..12].fill(0xff);
    let skip = ImportConfig { skip_bad: true, ..config(pairs()) };
    let error = imported("rows.parquet", &damaged, &skip).err().unwrap();
    assert!(error.contains("rows.parquet: damaged at row 1: ") && !error.contains("skip"), "{error}");
}

#[test]
fn a_table_of_items_has_the_texts_and_domains() {
    let folder = tempfile::tempdir().unwrap();
    let items = folder.path().join("items.jsonl");
    let lines: Vec<String> =
        (1..=5).map(|i| format!(r#"{{"key": {i}, "name": "item {i}", "group": "g{}"}}"#, i % 2)).collect();
    std::fs::write(&items, lines.join("\n")).unwrap();
    let columns = ColumnsConfig {
        item: "item".into(),
        items,
        item_id: "key".into(),
        item_text: "name".into(),
        item_domain: "group".into(),
        ..ColumnsConfig::default()
    };
    let Imported { train, card, .. } = imported("rows.csv", POSITIVES.as_bytes(), &config(columns.clone())).unwrap();
    assert_eq!(texts(&train[1].interactions), ["item 4", "item 5"]);
    let domains: Vec<Option<&str>> = train[0].interactions.iter().map(|i| i.domain.as_deref()).collect();
    assert_eq!(domains, [Some("g1"), Some("g0"), Some("g1")]);
    assert_eq!(card.dropped["choices of items that import.columns.items does not hold"], 1);
    assert_eq!(card.inputs.len(), 2, "the table is one of the inputs");
    let misspelled = ColumnsConfig { item_text: "nane".into(), ..columns };
    let error = imported("rows.csv", POSITIVES.as_bytes(), &config(misspelled)).err().unwrap();
    let words = "items.jsonl:1: field `nane` is missing; expected the column of import.columns.item_text; found ";
    assert!(error.contains(words), "{error}");
}

#[test]
fn malformed_rows_and_misspelled_columns_are_named() {
    let columns = || ColumnsConfig { time: "at".into(), rating: "stars".into(), ..positives() };
    let header = "user,item,title,at,stars\n";
    for (row, words) in [
        ("u,1,one,then,5", "field `at` is `then`; expected a number, or a date in ISO 8601"),
        ("u,1,one,,5", "field `at` is missing or empty"),
        ("u,1,one,3,good", "field `stars` is `good`; expected a number"),
        (",1,one,3,5", "field `user` is missing or empty"),
        ("u,1,,3,5", "field `title` is missing or empty"),
        ("u,1,one,3", "has 4 fields; expected 5, as in the first line"),
    ] {
        let text = format!("{header}u,2,two,1,5\n{row}");
        let error = imported("rows.csv", text.as_bytes(), &config(columns())).err().unwrap();
        assert!(error.contains("rows.csv:3: ") && error.contains(words) && error.contains("cut off"), "{error}");
    }
    let text = format!("{header}u,1,one,3,5\nu,2,two,4,5\n");
    let misspelled = ColumnsConfig { time: "time".into(), ..columns() };
    let error = imported("rows.csv", text.as_bytes(), &config(misspelled)).err().unwrap();
    let words = "expected a column `time` (import.columns.time); found user, item, title, at, stars";
    assert!(error.contains(words), "{error}");
    let misspelled = ColumnsConfig { query: "asked".into(), ..columns() };
    let error = imported("rows.csv", text.as_bytes(), &config(misspelled)).err().unwrap();
    let words = "expected a column `asked` (import.columns.query); found user, item, title, at, stars";
    assert!(error.contains(words), "{error}");
}

#[test]
fn times_are_numbers_or_dates() {
    let same = [
        ["1577836800", "2020-01-01"],
        ["1577836800.0", "2020-01-01T00:00:00Z"],
        ["1577836860", "2020-01-01 00:01:00"],
        ["1577836860.5", "2020-01-01T00:01:00.5"],
        ["1577836860", "2020-01-01T02:01:00+02:00"],
        ["-0.0", "1970-01-01"],
    ];
    for [a, b] in same {
        assert!(order(a).is_some() && order(a) == order(b), "{a} {b}");
    }
    let ascending = [
        "-1e300",
        "-5",
        "-0.25",
        "0",
        "0.25",
        "0.75",
        "1",
        "1577836800.1",
        "1577836800.9",
        "2020-01-01T00:00:00.95Z",
        "2020-01-01T00:00:01Z",
        "1600000000000000000",
        "1600000000000001000",
    ];
    let places = ascending.map(|text| order(text).unwrap());
    assert!(places.is_sorted_by(|a, b| a < b) && places[0] > i64::MIN, "{places:?}");
    for text in ["", "yesterday", "01/02/2020", "2020-13-01", "nan", "inf"] {
        assert_eq!(order(text), None, "{text}");
    }
}

#[test]
fn rows_within_a_second_are_put_in_order() {
    let columns = ColumnsConfig { time: "at".into(), ..positives() };
    for (later, earlier) in [("0.75", "0.25"), ("2020-01-01T10:00:00.9", "2020-01-01T10:00:00.1")] {
        let text = format!("user,item,title,at\nu,1,late,{later}\nu,2,early,{earlier}\nv,3,other,1\nv,4,last,2\n");
        let train = imported("rows.csv", text.as_bytes(), &config(columns.clone())).unwrap().train;
        assert_eq!(texts(&train[0].interactions), ["early", "late"]);
    }
}

#[test]
fn the_order_of_the_rows_and_other_users_change_no_draw() {
    let columns = ColumnsConfig { time: "at".into(), ..positives() };
    let rows: Vec<String> = (0..40).map(|i| format!("u{},{},title {},{i}\n", i % 8, i * 7 % 20, i * 7 % 20)).collect();
    // One more user, who chooses one item often and no new one.
    let skewed: Vec<String> = (0..9).map(|i| format!("w,3,title 3,{i}\n")).collect();
    let users = |rows: &mut dyn Iterator<Item = &String>| {
        let text = rows.fold("user,item,title,at\n".to_owned(), |text, row| text + row);
        let mut train = imported("rows.csv", text.as_bytes(), &config(columns.clone())).unwrap().train;
        train.sort_by(|a, b| a.uid.cmp(&b.uid));
        train
    };
    let expected = users(&mut rows.iter());
    assert_eq!(expected.len(), 8);
    assert_eq!(users(&mut rows.iter().rev()), expected);
    assert_eq!(users(&mut skewed.iter().chain(&rows))[..8], expected);
}

#[test]
fn a_repeated_choice_is_one_of_equal_item_and_query_or_pair() {
    let once = |columns| ImportConfig { duplicates: Some(Duplicates::Interactions), ..config(columns) };
    let columns = ColumnsConfig { query: "q".into(), ..positives() };
    let rows = "user,item,title,q\nu,1,one,a\nu,1,one,b\nu,1,one,a\nv,2,two,\nv,3,three,\n";
    let train = imported("rows.csv", rows.as_bytes(), &once(columns)).unwrap().train;
    let queries: Vec<Option<&str>> = train[0].interactions.iter().map(|i| i.query.as_deref()).collect();
    assert_eq!((texts(&train[0].interactions), queries), (vec!["one", "one"], vec![Some("a"), Some("b")]));
    let rows = "user,good,bad\nu,a,b\nu,a,c\nu,a,b\nu,<b>d</b>,d\n";
    let config = ImportConfig { strip_html: true, ..once(pairs()) };
    let Imported { train, card, .. } = imported("rows.csv", rows.as_bytes(), &config).unwrap();
    let rejected: Vec<Option<&str>> = train[0].interactions.iter().map(|i| i.rejected.as_deref()).collect();
    assert_eq!(rejected, [Some("b"), Some("c")]);
    assert_eq!((card.dropped["repeated choices"], card.dropped["choices between two equal texts"]), (1, 1));
}

#[test]
fn transfer_targets_need_a_second_domain() {
    let columns = ColumnsConfig { domain: "area".into(), ..positives() };
    let config = ImportConfig { transfer_targets: 1, ..config(columns) };
    let Imported { train, card, .. } = imported("rows.csv", POSITIVES.as_bytes(), &config).unwrap();
    assert_eq!((texts(&train[0].interactions), texts(&train[0].transfer)), (vec!["one", "two"], vec!["three"]));
    assert_eq!(card.transfer_targets, 2);
    let long = ImportConfig { min_history: Some(4), ..config.clone() };
    let error = imported("rows.csv", POSITIVES.as_bytes(), &long).err().unwrap();
    assert!(error.contains("2 users with a history below"), "{error}");
    let error = imported("rows.csv", POSITIVES.replace("sport", "news").as_bytes(), &config).err().unwrap();
    assert!(error.contains("import.transfer_targets has no effect: no user without"), "{error}");
}
