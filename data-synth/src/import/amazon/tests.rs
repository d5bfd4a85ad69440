use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use configs::synth::ImportConfig;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::import::testing::{import_files, texts};

const META_2018: &str = r#"{"category": ["Books"], "asin": "B1", "title": "First", "description": ["One.", "", "Two."], "price": "$9"}
{"asin": "B2", "title": "", "description": []}
{"asin": "B3", "title": "<span>Rock &amp; roll</span>", "description": "Loud<br>music"}
{"asin": "B4", "title": "Old title"}
{"asin": "B4", "title": "New title", "description": null}
{"asin": "B4", "title": ""}
{"asin": "B5", "title": "Five"}
{"asin": "B6", "title": "Six"}
{"asin": "B7", "title": "Seven"}
"#;

const REVIEWS_2018: &str = r#"{"overall": 5.0, "verified": true, "reviewTime": "01 2, 2018", "reviewerID": "A", "asin": "B4", "style": {"Format:": " Kindle"}, "reviewText": "x", "unixReviewTime": 300}
{"overall": 1.0, "reviewerID": "A", "asin": "B1", "unixReviewTime": 100}
{"overall": 4.0, "reviewerID": "B", "asin": "B2", "unixReviewTime": 100}
{"overall": 3.0, "reviewerID": "A", "asin": "B3", "unixReviewTime": 200}
{"overall": 2.0, "reviewerID": "B", "asin": "B5", "unixReviewTime": 50}
{"overall": 2.0, "reviewerID": "A", "asin": "B9", "unixReviewTime": 1}
"#;

fn config() -> ImportConfig {
    ImportConfig { format: "amazon".into(), min_history: Some(1), test_share: 0.0, ..ImportConfig::default() }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn the_layout_of_2018_is_read() {
    let (meta, reviews) = (gzip(META_2018), gzip(REVIEWS_2018));
    let files = [("meta_Books.json.gz", meta.as_slice()), ("Books_5.json.gz", reviews.as_slice())];
    let imported = import_files(&files, &config(), 3).unwrap();
    let expected = [
        "Title: First\nDescription: One. Two.",
        "Title: <span>Rock &amp; roll</span>\nDescription: Loud<br>music",
        "Title: New title\nDescription: ",
    ];
    assert_eq!(texts(&imported.train[0].interactions), expected);
    assert_eq!(texts(&imported.train[1].interactions), ["Title: Five\nDescription: "]);
    assert!(imported.train.iter().flat_map(|u| &u.interactions).all(|i| i.domain.as_deref() == Some("Books")));
    let dropped = BTreeMap::from([(UNTITLED.to_owned(), 2), (UNKNOWN.to_owned(), 2)]);
    assert_eq!(imported.card.dropped, dropped);
    // A chose three of the six items with a title; each other one is rejected once.
    let rejected: BTreeSet<&str> =
        imported.train[0].interactions.iter().map(|i| &i.rejected.as_deref().unwrap()[7..11]).collect();
    assert_eq!(rejected, BTreeSet::from(["Five", "Six\n", "Seve"]));
}

#[test]
fn a_small_pool_of_negatives_cuts_the_last_choices() {
    let meta = META_2018.replace(r#"{"asin": "B7", "title": "Seven"}"#, "");
    let files = [("meta_Books.json", meta.as_bytes()), ("Books.json", REVIEWS_2018.as_bytes())];
    let imported = import_files(&files, &config(), 3).unwrap();
    assert_eq!(texts(&imported.train[0].interactions).len(), 2);
    assert!(imported.train[0].interactions[1].chosen.contains("Rock"));
    assert_eq!(imported.card.dropped["choices without an item left to reject"], 1);
}

#[test]
fn html_is_replaced_by_text_if_asked() {
    let files = [("meta_Books.json", META_2018.as_bytes()), ("Books.json", REVIEWS_2018.as_bytes())];
    let config = ImportConfig { strip_html: true, replacement: Some(true), ..config() };
    let imported = import_files(&files, &config, 3).unwrap();
    assert_eq!(imported.train[0].interactions[1].chosen, "Title: Rock & roll\nDescription: Loud music");
}

#[test]
fn low_ratings_are_no_choices_but_were_seen() {
    let files = [("meta_Books.json", META_2018.as_bytes()), ("Books.json", REVIEWS_2018.as_bytes())];
    let config = ImportConfig { rating_threshold: Some(3.0), replacement: Some(true), ..config() };
    for seed in 0..20 {
        let imported = import_files(&files, &config, seed).unwrap();
        let user = &imported.train[0].interactions;
        assert_eq!(user.iter().map(|i| i.chosen.contains("New")).collect::<Vec<_>>(), [false, true]);
        assert!(user.iter().all(|i| !i.rejected.as_deref().unwrap().contains("First")));
        assert_eq!(imported.card.dropped["choices with a rating below import.rating_threshold"], 2);
    }
}

#[test]
fn the_layout_of_2023_and_its_domains_are_read() {
    let books = r#"{"main_category": "Books", "title": "First", "description": ["Text."], "parent_asin": "P1"}
{"title": "Second", "description": [], "parent_asin": "P2"}
{"title": null, "parent_asin": "P3"}
"#;
    let games = r#"{"title": "Game", "description": [null, "Play."], "parent_asin": "G1"}
{"title": "Other game", "description": [], "parent_asin": "G2"}
"#;
    let of_books = r#"{"rating": 5.0, "title": "Good", "text": "", "asin": "V1", "parent_asin": "P1", "user_id": "U", "timestamp": 1588687728923}
{"rating": 1.0, "asin": "P1", "parent_asin": "P1", "user_id": "U", "timestamp": 1588687728924}
"#;
    let of_games = r#"{"rating": 4.0, "asin": "G1", "parent_asin": "G1", "user_id": "U", "timestamp": 1588687728000}"#;
    let files = [
        ("meta_Books.jsonl", books.as_bytes()),
        ("Books.jsonl", of_books.as_bytes()),
        ("meta_Video_Games.jsonl", games.as_bytes()),
        ("Video_Games.jsonl", of_games.as_bytes()),
    ];
    let with_replacement = ImportConfig { replacement: Some(true), ..config() };
    let imported = import_files(&files, &with_replacement, 3).unwrap();
    let user = &imported.train[0];
    let first = "Title: First\nDescription: Text.";
    assert_eq!(texts(&user.interactions), ["Title: Game\nDescription: Play.", first, first]);
    // A negative is of the category of the choice, which leaves one item each.
    let rejected: Vec<&str> = user.interactions.iter().map(|i| i.rejected.as_deref().unwrap()).collect();
    let second = "Title: Second\nDescription: ";
    assert_eq!(rejected, ["Title: Other game\nDescription: ", second, second]);
    assert_eq!(imported.card.domains, BTreeMap::from([("Books".into(), 2), ("Video_Games".into(), 1)]));

    let transfer = ImportConfig { transfer_targets: 2, ..with_replacement };
    let imported = import_files(&files, &transfer, 3).unwrap();
    let user = &imported.train[0];
    assert_eq!(
        (texts(&user.interactions), texts(&user.transfer)),
        (vec![first; 2], vec!["Title: Game\nDescription: Play."])
    );
    assert_eq!((imported.card.interactions.train, imported.card.transfer_targets), (2, 1));
}

#[test]
fn ratings_without_reviews_are_read_with_and_without_a_header() {
    let chosen = |name: &str, text: &str| -> Vec<String> {
        let files = [("meta_Books.jsonl", META_2018.as_bytes()), (name, text.as_bytes())];
        let imported = import_files(&files, &config(), 3).unwrap();
        let user = &imported.train[0];
        assert_eq!(user.uid, "U");
        texts(&user.interactions).into_iter().map(|text| text[7..].split('\n').next().unwrap().to_owned()).collect()
    };
    let expected: Vec<String> = vec!["Five".into(), "New title".into()];
    let header = "user_id,parent_asin,rating,timestamp,history\nU,B4,5.0,1588687728923,B5\nU,B5,4.0,1588687728000,\n";
    assert_eq!(chosen("Books.train.csv", header), expected);
    assert_eq!(chosen("Books.csv", "B4,U,5.0,1405382400\nB5,U,4.0,1405382399\n"), expected);
}

#[test]
fn malformed_rows_are_named_or_counted() {
    let good = REVIEWS_2018.lines().next().unwrap();
    for (bad, words) in [
        ("{\"overall\": 5.0, \"reviewerID\": \"A\", \"as", "Books.json:2: is not a JSON object of this data set: EOF"),
        (
            "{\"overall\": \"good\", \"reviewerID\": \"A\", \"asin\": \"B1\"}",
            "Books.json:2: field `overall` is malformed: invalid type: string \"good\", expected f32",
        ),
        (
            "{\"overall\": 5.0, \"asin\": \"B1\"}",
            "Books.json:2: field `user_id` is missing; expected the id of the user",
        ),
        ("{\"overall\": 5.0, \"reviewerID\": \"A\"}", "Books.json:2: field `parent_asin` is missing"),
    ] {
        let reviews = format!("{good}\n{bad}");
        let files = [("meta_Books.json", META_2018.as_bytes()), ("Books.json", reviews.as_bytes())];
        let error = import_files(&files, &config(), 3).unwrap_err();
        assert!(error.contains(words) && error.contains("has no line end"), "{error}");
        let imported = import_files(&files, &ImportConfig { skip_bad: true, ..config() }, 3).unwrap();
        assert_eq!((imported.card.bad_rows.values().sum::<u64>(), imported.train[0].interactions.len()), (1, 1));
    }
    let loud = META_2018.replace("\"Loud<br>music\"", "5");
    for (meta, name, reviews, words) in [
        (META_2018, "Books.csv", "B1,U,x,3\n", "Books.csv:1: field `rating` is `x`; expected a number"),
        (META_2018, "Books.csv", "B1,U,NaN,3\n", "Books.csv:1: field `rating` is `NaN`; expected a number"),
        (&loud, "Books.json", good, "json:3: field `description` is malformed: expected a text or a list of texts"),
    ] {
        let files = [("meta_Books.json", meta.as_bytes()), (name, reviews.as_bytes())];
        let error = import_files(&files, &config(), 3).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let error = import_files(&[("Books.json", good.as_bytes())], &config(), 3).unwrap_err();
    assert!(error.contains("expected the metadata, such as meta_Books.json.gz"), "{error}");
}

#[test]
fn categories_are_names_of_files() {
    for (name, expected) in [
        ("meta_Books.json.gz", "Books"),
        ("Books_5.json.gz", "Books"),
        ("Video_Games.jsonl", "Video_Games"),
        ("All_Beauty.train.csv.gz", "All_Beauty"),
    ] {
        assert_eq!(category(Path::new(name)), expected);
    }
}
