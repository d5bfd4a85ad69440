//! Checks that the table "Where is …?" of docs/architecture.md names existing files and items that they define.

use std::fs;
use std::path::Path;

#[test]
fn every_row_names_a_file_and_an_item_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let table = text.split("## Where is …?").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let cells =
        |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect() };
    let rows: Vec<Vec<String>> = table.lines().filter(|line| line.starts_with("| ")).skip(1).map(cells).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        let [_, what, file, item, _] = &row[..] else { panic!("{row:?}") };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{what}: {file}: {e}"));
        let defined = ["fn ", "struct ", "enum ", "trait "].iter().any(|kind| {
            source.lines().any(|line| {
                let rest = line.split_once(&format!("{kind}{item}")).map(|(_, rest)| rest);
                rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            })
        });
        assert!(defined || source.contains(&format!(".{item}(")), "{what}: {file} does not define or call `{item}`");
    }
}
