//! `--log-level`.

use crate::fixture::Bench;

#[test]
fn only_messages_of_the_level_and_above_are_shown() {
    let bench = Bench::new();
    let said = |name: &str, level: &[&str]| {
        let (code, said) = bench.start(name, &["data.max_length=30", "train.max_steps=1"], level);
        assert_eq!(code, 0, "{said}");
        assert!(!said.contains('\x1b'), "no colors outside of a terminal: {said}");
        said
    };
    let all = said("info", &[]);
    assert!(
        all.contains("warning: ") && all.contains("were truncated to data.max_length") && all.contains("done: "),
        "{all}"
    );
    let warnings = said("warn", &["--log-level", "warn"]);
    assert!(warnings.starts_with("warning: ") && warnings.lines().count() == 1, "{warnings}");
    assert_eq!(said("error", &["--log-level", "error"]), "");
    let (code, refused) = bench.start("loud", &[], &["--log-level", "loud"]);
    assert!(code == 2 && refused.contains("error, warn, info, debug, trace"), "{refused}");
}

#[test]
fn the_launcher_passes_the_level_on() {
    let bench = Bench::new();
    let (code, said) = bench.start("once", &["train.max_steps=1"], &["--log-level", "error"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let config = bench.path("once.toml").display().to_string();
    let launch = |level: &[&str], name: &str| {
        let name = format!("name='{name}'");
        let ranks = ["launch", "--nproc", "1", "--", "sft", "--config", &config, "--set", &name];
        let output = assert_cmd::Command::cargo_bin("xplore").unwrap().args(level).args(ranks).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(launch(&[], "two").contains("done: "));
    assert_eq!(launch(&["--log-level", "error"], "three"), "");
}
