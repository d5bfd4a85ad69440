//! Errors for an invalid input file name file, line and field.

use std::path::PathBuf;

use data_synth::importer;

const ROW: &str = r#"{"uid":"u","history":[{"query":null,"chosen":"a","rejected":"b"},{"chosen":"c","rejected":"d"},{"chosen":"e","rejected":"f"}],"mid_position":1}"#;

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("data-synth-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn seventh(name: &str, bad: &str) -> String {
    let lines: Vec<&str> = (1..=9).map(|n| if n == 7 { bad } else { ROW }).collect();
    let file = File::new(name, &lines.join("\n"));
    importer::rl(&file.0).unwrap_err().to_string()
}

#[test]
fn a_missing_field_names_the_line_and_the_field() {
    let error = seventh("missing.jsonl", r#"{"uid":"u","history":[{"chosen":"a"},{"chosen":"c"},{"chosen":"e"}]}"#);
    assert!(error.contains("missing.jsonl:7:") && error.contains("`mid_position`"), "{error}");
    let error = seventh("chosen.jsonl", &ROW.replace(r#""chosen":"c","#, ""));
    assert!(error.contains("chosen.jsonl:7:") && error.contains("`chosen`"), "{error}");
}

#[test]
fn an_impossible_value_names_the_line_and_the_field() {
    let error = seventh("mid.jsonl", &ROW.replace(r#""mid_position":1"#, r#""mid_position":2"#));
    assert!(error.contains("mid.jsonl:7:") && error.contains("`mid_position`") && error.contains("1 to 1"), "{error}");
}

#[test]
fn empty_and_absent_files_are_told_apart() {
    let file = File::new("empty.jsonl", "\n\n");
    assert!(importer::sft(&file.0).unwrap_err().to_string().contains("no rows"));
    let absent = file.0.with_file_name("data-synth-absent.jsonl");
    assert!(importer::histories(&absent).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn published_and_own_names_of_fields_are_read() {
    let published = r#"{"userid":"u","history":[{"query":"q","chosen":"a","rejected":"b"}]}"#;
    let own = r#"{"uid":"u","interactions":[{"query":"q","chosen":"a","rejected":"b"}]}"#;
    let file = File::new("histories.jsonl", &format!("{published}\n{own}\n"));
    let read = importer::histories(&file.0).unwrap();
    assert_eq!(read[0], read[1]);
}
