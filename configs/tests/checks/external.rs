//! The keys of reward terms that a program or an endpoint computes.

use configs::RlConfig;

use super::{RL, check};

#[test]
fn keys_that_have_no_effect_or_no_sense_are_rejected() {
    let of = |keys: &str| format!("reward.terms=[{{name='mine', {keys}}}]");
    let fallback = "on_failure='fallback', fallback=0.5";
    let (command, url) = (format!("command=['a'], {fallback}"), format!("url='http://a', {fallback}"));
    let (command, url) = (command.as_str(), url.as_str());
    for (key, expected, refused, accepted) in [
        ("command", "a program and its arguments", "command=['']", "command=['python', 'mine.py']"),
        ("url", "either command or url", "command=['a'], url='http://a'", "url='http://a/score'"),
        ("url", "a URL such as", "url='node7:8000'", "url='https://a'"),
        ("term", "none with command or url", "command=['a'], term='judge'", "term='judge'"),
        ("workers", "at least 1", "command=['a'], workers=0", "command=['a'], workers=8"),
        ("workers", "1 with batch_size = 0", "command=['a'], workers=2, batch_size=0", "command=['a'], batch_size=0"),
        ("workers", "a term with command or url", "workers=1", "command=['a'], workers=1"),
        ("batch_size", "a term with command or url", "batch_size=8", "url='http://a', batch_size=8"),
        (
            "timeout_seconds",
            "at most 86400",
            "command=['a'], timeout_seconds=1e9",
            "command=['a'], timeout_seconds=86400",
        ),
        ("timeout_seconds", "a term with command or url", "timeout_seconds=1", "command=['a'], timeout_seconds=0.5"),
        (
            "start_timeout_seconds",
            "above 0",
            "command=['a'], start_timeout_seconds=0",
            "command=['a'], start_timeout_seconds=9",
        ),
        ("start_timeout_seconds", "a term with command or url", "start_timeout_seconds=1", "url='http://a'"),
        ("retries", "a term with command or url", "retries=0", "command=['a'], retries=0"),
        (
            "on_failure",
            "\"stop\" or \"fallback\"",
            "command=['a'], on_failure='retry'",
            "command=['a'], on_failure='stop'",
        ),
        ("on_failure", "a term with command or url", fallback, command),
        ("fallback", "none with on_failure = \"stop\"", "command=['a'], fallback=0", url),
        ("fallback", "the score of responses", "command=['a'], on_failure='fallback'", url),
        ("fallback", "a finite number", "command=['a'], on_failure='fallback', fallback=nan", url),
    ] {
        check::<RlConfig>(RL, &format!("reward.terms[0].{key}"), expected, &of(refused), &of(accepted));
    }
}
