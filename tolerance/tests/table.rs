//! The table that `scripts/margins` prints from records.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns the exit code, standard output, and standard error of the script for files with these contents.
fn table(files: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (i, text) in files.iter().enumerate() {
        fs::write(folder.path().join(i.to_string()), text).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/margins");
    let output = Command::new("python3").arg(script).arg(folder.path()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn each_site_has_one_row_and_the_largest_share_is_first() {
    let files = [
        "a\ta.rs:1\t1e-7\t1e-6\na\ta.rs:20\t0e0\t0e0\na\ta.rs:1\t3e-7\t1e-6\n",
        "b\tb.rs:3\t1e-3\t2e-2\nb\ta.rs:1\t1e-7\t1e-6\n",
    ];
    let expected = "site     observed   allowed   share\n\
                    a.rs:1   3.00e-07  1.00e-06  30.0 %\n\
                    b.rs:3   1.00e-03  2.00e-02   5.0 %\n\
                    a.rs:20  0.00e+00  0.00e+00   0.0 %\n\
                    3 tolerances, none used to more than a third\n";
    assert_eq!(table(&files), (0, expected.into(), String::new()));
}

#[test]
fn more_than_a_third_fails_and_names_its_sites() {
    let (code, out, said) =
        table(&["a\ta.rs:1\t1e0\t3e0\na\ta.rs:2\t3.4e-1\t1e0\na\ta.rs:3\tNaN\t1e0\na\ta.rs:4\t1e-9\t0e0\n"]);
    assert_eq!((code, out.lines().count()), (1, 5));
    assert_eq!(said, "3 of 4 tolerances are used to more than a third: a.rs:3, a.rs:4, a.rs:2\n");
}

#[test]
fn nothing_and_lines_cut_short_are_told() {
    let (code, out, said) = table(&[]);
    assert!(code == 1 && out.is_empty() && said.contains("no recorded tolerances"), "{code} {out} {said}");
    let (code, _, said) = table(&["a\ta.rs:1\t1e0"]);
    assert!(code == 1 && said.contains("/0:1: expected module, site"), "{code} {said}");
}
