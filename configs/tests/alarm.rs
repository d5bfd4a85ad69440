//! The keys of `[alarm]`: invalid values are rejected with their key, and what a run writes out loads again.

use configs::rl::alarm::{AlarmAction, AlarmSign};
use configs::{RlConfig, RunConfig};

const RL: &str = "[model]\npath='p'\n[data]\ntrain='r'\n[validation]\nevery=5\n[alarm]\njudge='b'\n\
                  [[judges]]\nname='a'\njudge.model.path='j'\n[[judges]]\nname='b'\nweight=0\njudge.model.path='k'\n";

fn load(set: &[&str]) -> Result<RlConfig, String> {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    configs::parse::<RlConfig>("my.toml", RL, &set).map_err(|e| e.to_string())
}

#[test]
fn invalid_values_are_refused_with_their_key() {
    for (key, expected, refused, accepted) in [
        ("alarm.judge", "the name of an entry of [[judges]] with weight 0", "''", "b"),
        ("alarm.judge", "the name of an entry of [[judges]] (\"a\", \"b\")", "c", "b"),
        ("alarm.judge", "a judge with weight 0", "a", "b"),
        ("alarm.samples", "at least 2", "1", "2"),
        ("alarm.window", "at least 4", "3", "4"),
        ("alarm.error_rate", "above 0, at most 0.5", "0", "0.5"),
        ("alarm.error_rate", "above 0, at most 0.5", "0.51", "1e-3"),
        ("alarm.held_out_share", "from 0 to 1", "1.1", "1"),
        ("alarm.least_rise", "0 or more", "-0.01", "0"),
        ("alarm.overlap_words", "at least 1", "0", "1"),
        ("alarm.signs", "at least one of", "[]", "['gap']"),
        ("alarm.signs", "without duplicates", "['gap', 'gap']", "['overlap', 'gap']"),
        ("alarm.signs[0]", "\"position_bias\"", "['bias']", "['position_bias']"),
        ("alarm.action", "\"pause\"", "wait", "pause"),
        ("validation.every", "[alarm] looks at summaries", "0", "1"),
    ] {
        let top = key.split('[').next().unwrap();
        let error = load(&[&format!("{top}={refused}")]).unwrap_err();
        assert!(error.contains(&format!("`{key}` ")) && error.contains(expected), "{top}={refused}: {error}");
        load(&[&format!("{top}={accepted}")]).unwrap();
    }
    let error = load(&["alarm.action=pause", "checkpoint.state=false"]).unwrap_err();
    assert!(error.contains("`checkpoint.state` ") && error.contains("to resume from"), "{error}");
    load(&["alarm.action=stop", "checkpoint.state=false"]).unwrap();
    // A judge that a term asks is not held out.
    let terms = |params: &str| format!("reward.terms=[{{name='cross_judge', params={{{params}}}}}]");
    let error = load(&[&terms("judge='b'")]).unwrap_err();
    assert!(error.contains("`alarm.judge` ") && error.contains("which reward term `cross_judge` asks too"), "{error}");
    load(&[&terms("judge='a'")]).unwrap();
    // Another parameter with the same text names no judge.
    load(&[&terms("topic='b'")]).unwrap();
}

#[test]
fn an_alarm_survives_being_written_out() {
    let config = load(&["alarm.action=stop", "alarm.signs=['overlap']", "alarm.window=6"]).unwrap();
    let alarm = config.alarm.clone().unwrap();
    assert_eq!((alarm.action, alarm.signs, alarm.window), (AlarmAction::Stop, vec![AlarmSign::Overlap], 6));
    let written = config.resolved().unwrap();
    assert_eq!(configs::parse::<RlConfig>("my.toml", &written, &[]).unwrap(), config);
    // Without users to validate on, only an alarm makes use of the interval.
    let without = RL.replace("[alarm]\njudge='b'\n", "");
    let error = configs::parse::<RlConfig>("my.toml", &without, &[]).unwrap_err().to_string();
    assert!(error.contains("`validation.every` is 5") && error.contains("or an [alarm]"), "{error}");
}
