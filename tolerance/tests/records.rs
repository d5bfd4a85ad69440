//! The records that a test process writes to the folder in `XPLORE_MARGINS`. The test runs this program again as such a process.

use std::fs;
use std::process::Command;

use tolerance::{FOLDER, assert_within};

/// The environment variable that is set in the recording process.
const CHILD: &str = "TOLERANCE_CHILD";

/// A helper whose callers are the sites.
#[track_caller]
fn near(observed: f64) {
    assert_within!(observed, 1.0);
}

/// Does nothing unless the test below runs it, because its shares must not appear in the table.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    for observed in [0.25, 0.75, 0.5] {
        assert_within!(observed, 1.0);
    }
    near(0.5);
    near(0.125);
}

#[test]
fn each_site_is_recorded_where_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let run = |folder: Option<&str>| {
        let mut command = Command::new(&program);
        command.args(["--exact", "child"]).env(CHILD, "1").env_remove(FOLDER);
        command.envs(folder.map(|folder| (FOLDER, folder))).output().unwrap()
    };
    let output = run(folder.path().to_str());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one file for a process");
    let text = fs::read_to_string(&files[0]).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert!(
        lines.iter().all(|line| line[0] == "records" && line[1].starts_with("tolerance/tests/records.rs:")),
        "{text}"
    );
    let observed: Vec<&str> = lines.iter().map(|line| line[2]).collect();
    assert_eq!(observed, ["2.5e-1", "7.5e-1", "5e-1", "1.25e-1"]);
    let site = |i: usize| lines[i][1];
    assert_eq!(site(0), site(1), "the loop is one site");
    assert!(site(1) != site(2) && site(2) != site(3), "each call of the helper is one");

    assert!(run(None).status.success());
    let missing = run(folder.path().join("missing").to_str());
    assert!(String::from_utf8_lossy(&missing.stdout).contains("XPLORE_MARGINS must name a writable folder"));
}
