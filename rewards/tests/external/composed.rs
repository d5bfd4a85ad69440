//! External terms in a reward.

use configs::rl::{ExternalConfig, ExternalSource, OnFailure, TermConfig};
use configs::{RlConfig, RunConfig};
use rewards::{Composition, ExternalScores, Registry, RewardError};
use tolerance::assert_within;

use crate::fixture::{Bench, responses, says, texts};

/// Returns the configuration of a run whose reward has the terms `format` and `mine` with the keys `keys`.
fn config(keys: &str) -> RlConfig {
    let text = format!(
        "model.path = 'p'\njudge.model.path = 'j'\ndata.train = 'r'\n[[reward.terms]]\nname = 'format'\n[[reward.terms]]\n\
         name = 'mine'\nweight = 0.5\n{keys}\n"
    );
    configs::parse("my.toml", &text, &[]).unwrap()
}

fn composition(config: &RlConfig) -> Result<Composition, RewardError> {
    Composition::from_config(&Registry::default(), &config.reward)
}

#[test]
fn a_term_of_a_program_is_weighted_and_logged_like_any_other() {
    let bench = Bench::new();
    bench.term_of_requests(
        "numbers = [float(r['summary'][1:]) if r['summary'] else 9.0 for r in request['responses']]\n\
         say({'id': request['id'], 'scores': numbers, 'metrics': {'add': request['params']['add'], 'step': request['step']}})",
    );
    let program = bench.path("term.py").display().to_string();
    let command = format!("command = ['{}', '{program}']\nparams = {{ add = 3 }}", crate::fixture::python());
    let composition = composition(&config(&command)).unwrap();
    composition.start_external().unwrap();
    let texts = [&texts(3)[..], &["malformed".to_owned()]].concat();
    let scored = composition.score(4, &responses(&texts, 4), &[]).unwrap();
    let totals: Vec<f64> = scored.rewards.iter().map(|reward| reward.total).collect();
    for (total, expected) in totals.iter().zip([1.0, 1.5, 2.0, 0.0]) {
        assert_within!(total - expected, 1e-12);
    }
    assert_eq!(scored.rewards[2].scores, [1.0, 2.0]);
    assert_eq!(scored.rewards[3].scores, [0.0, 9.0]);
    let metrics = [("reward/mine/add", 3.0), ("reward/mine/step", 4.0), ("reward/mine/retries", 0.0)];
    assert_eq!(scored.metrics, metrics.map(|(key, value)| (key.to_owned(), value)));
}

#[test]
fn the_answers_of_another_rank_take_the_place_of_the_program() {
    let composition = composition(&config("command = ['./no-such-program']")).unwrap();
    assert_eq!(composition.external().count(), 1);
    let texts = texts(2);
    let responses = responses(&texts, 2);
    let error = composition.score(0, &responses, &[]).unwrap_err();
    says(&error.to_string(), &["reward term `mine` (./no-such-program): step 1: cannot start `./no-such-program`"]);
    let told = |scores: &[f64]| {
        let told = ExternalScores { term: "mine".into(), scores: scores.into(), metrics: vec![("a".into(), 2.0)] };
        composition.score_with(0, &responses, &[], &[told])
    };
    let scored = told(&[0.25, -1.0]).unwrap();
    assert_eq!(scored.rewards.iter().map(|reward| reward.scores[1]).collect::<Vec<_>>(), [0.25, -1.0]);
    assert_eq!(scored.metrics, [("reward/mine/a".to_owned(), 2.0)]);
    assert!(matches!(told(&[0.25]), Err(RewardError::Count { expected: 2, got: 1, .. })));
}

#[test]
fn a_built_in_name_is_not_taken_over() {
    let mut config = config("command = ['true']");
    config.reward.terms[1].name = "brevity".into();
    assert_eq!(composition(&config).err(), Some(RewardError::Registered("brevity".into())));
}

#[test]
fn the_keys_of_a_term_are_those_of_its_program() {
    let keys = "command = ['python', 'mine.py']\nworkers = 3\nbatch_size = 16\ntimeout_seconds = 5\nstart_timeout_seconds = 60\n\
                retries = 4\non_failure = 'fallback'\nfallback = 0.25";
    let config = config(keys);
    let expected = ExternalConfig {
        source: ExternalSource::Command(vec!["python".into(), "mine.py".into()]),
        workers: 3,
        batch_size: 16,
        timeout_seconds: 5.0,
        start_timeout_seconds: 60.0,
        retries: 4,
        fallback: Some(0.25),
    };
    let term = &config.reward.terms[1];
    assert_eq!((term.external(), term.on_failure), (Some(expected), Some(OnFailure::Fallback)));
    assert_eq!(config.reward.terms[0].external(), None);
    let written: RlConfig = configs::parse("config.toml", &config.resolved().unwrap(), &[]).unwrap();
    assert_eq!(written.reward.terms, config.reward.terms);
    let url = TermConfig { url: "http://node7:8000".into(), ..TermConfig::default() };
    assert_eq!(url.external(), Some(ExternalConfig::new(ExternalSource::Url("http://node7:8000".into()))));
}
