//! The keys of a data synthesis: values that are refused, keys that steps require, and the published values.

use std::path::Path;

use configs::SynthStep::{Export, Import, Prune, Signal, Teach};
use configs::judge::{ItemOrders, JudgeMode};
use configs::synth::{
    Duplicates, ImportOrder, NegativePolicy, PruneBy, PruningRule, SignalBy, VerifyBy, WorldPopulation,
};
use configs::{
    ConfigError, PruningConfig, QuickstartConfig, RunConfig, Schedule, SynthConfig, SynthStep, SynthesisConfig,
};

/// A pipeline whose steps have all that they require.
const WHOLE: &str = "[import]\nformat='mind'\ninput=['data']\n[scorer.model]\npath='s'\n[teacher.model]\npath='t'\n\
                     [verifier.model]\npath='v'\n";

fn parse(text: &str, set: &[&str]) -> Result<SynthConfig, ConfigError> {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    configs::parse("my.toml", text, &set)
}

/// Asserts that `refused` fails at `key` with an error that contains `expected`, and that `accepted` loads.
#[track_caller]
fn check(text: &str, key: &str, expected: &str, refused: &str, accepted: &str) {
    let Err(error) = parse(text, &[refused]) else { panic!("{refused} was accepted") };
    let error = error.to_string();
    assert!(error.contains(&format!("`{key}` ")) && error.contains(expected), "{refused}: {error}");
    if let Err(error) = parse(text, &[accepted]) {
        panic!("{accepted} was refused: {error}");
    }
}

#[test]
fn invalid_values_are_refused_and_boundary_values_accepted() {
    for (key, expected, refused, accepted) in [
        ("name", "a folder name", "a/b", "a"),
        ("steps", "at least one of import", "[]", "['teach']"),
        ("steps", "each step once", "['teach', 'teach']", "['teach', 'import']"),
        ("steps[0]", "\"export\"", "['exprot']", "['export']"),
        ("import.min_history", "at least 1", "0", "1"),
        ("import.order", "\"time\"", "tiem", "time"),
        ("import.duplicates", "\"interactions\"", "drop", "interactions"),
        ("import.negatives", "\"in_session\"", "session", "in_session"),
        ("import.rating_threshold", "a finite number", "inf", "-1.5"),
        ("import.replacement", "true or false", "1", "true"),
        ("import.hard_candidates", "at least 1", "0", "100"),
        ("import.hard_candidates", "which alone uses it", "50", "100"),
        ("import.test_share", "below 1", "1", "0"),
        ("import.skip_bad", "true or false", "yes", "true"),
        ("import.strip_html", "true or false", "1", "true"),
        ("import.quotes", "\"plain\"", "none", "plain"),
        ("import.message_users", "\"question\"", "users", "user"),
        ("import.transfer_targets", "a whole number", "-1", "3"),
        ("signal.by", "\"judge\"", "verifier", "judge"),
        ("signal.max_interactions", "a whole number", "-1", "0"),
        ("scorer.train_max_length", "at least 2", "1", "2"),
        ("scorer.max_length", "at least 2", "1", "2"),
        ("scorer.train.epochs", "at least 1", "0", "1"),
        ("scorer.optimizer.lr", "above 0", "0", "1"),
        ("prune.by", "\"policy\"", "polcy", "signal"),
        ("prune.thresholds.rule", "\"published\"", "publised", "windowed"),
        ("prune.thresholds.most_signal", "from 0 to 1", "2", "1"),
        ("prune.thresholds.band_end", "the band is empty", "0", "0.1"),
        ("prune.thresholds.band_width", "the band is empty", "0", "0.1"),
        ("prune.thresholds.least_window", "at least 1", "0", "1"),
        ("prune.policy.sampling.top_p", "above 0", "0", "1"),
        ("prune.policy.num_generations", "at least 1", "0", "1"),
        ("prune.policy.targets_per_user", "at least 2", "1", "2"),
        ("prune.policy.pass_rate", "the lower first", "[0.8, 0.2]", "[0.5, 0.5]"),
        ("prune.policy.pass_rate", "from 0 to 1", "[0.2, 1.1]", "[0.0, 1.0]"),
        ("teach.thresholds.target_probability", "below 1", "1", "0.99"),
        ("teach.thresholds.least_correct", "at most most_targets (5)", "6", "5"),
        ("teach.thresholds.retest", "from 0 to 1", "1.5", "0"),
        ("teach.least_third", "at least 1", "0", "1"),
        ("teach.sampling.max_new_tokens", "at least 1", "0", "1"),
        ("teach.separator", "between reasoning and summary", "' '", "'#'"),
        ("teach.verify", "\"answer\"", "answers", "answer"),
        ("teach.users_per_batch", "at least 1", "0", "1"),
        ("teach.max_users", "a whole number", "-1", "0"),
        ("teach.on_error", "\"skip\"", "ignore", "skip"),
        ("teach.verifier_prices.prompt", "0 or more", "-1", "0.5"),
        ("teacher.prices.completion", "0 or more", "-1", "0.5"),
        ("verifier.no_answer", "from 0 to 1", "2", "0"),
        ("export.formats", "one or both", "[]", "['jsonl']"),
        ("export.formats", "each format once", "['jsonl', 'jsonl']", "['parquet', 'jsonl']"),
        ("export.validation_share", "below 1", "1", "0"),
        ("export.license", "a license", "''", "mit"),
        ("export.license", "the hub's identifier", "'MIT License'", "cc-by-4.0"),
        ("export.languages", "ISO 639 codes", "['English']", "['en', 'yue']"),
        ("export.eval_targets", "a whole number", "-1", "0"),
    ] {
        check(WHOLE, key, expected, &set(key, refused), &set(key, accepted));
    }
}

/// Returns the override of a key, or of the list that holds it.
fn set(key: &str, value: &str) -> String {
    format!("{}={value}", key.trim_end_matches("[0]"))
}

#[test]
fn keys_of_one_format_are_refused_for_the_others() {
    let amazon = WHOLE.replace("mind", "amazon");
    for (key, refused) in [
        ("import.columns", "import.columns.chosen=a"),
        ("import.world", "import.world.users=5"),
        ("import.quotes", "import.quotes=plain"),
    ] {
        check(&amazon, key, "which alone uses it", refused, "import.test_share=0");
    }
    check(WHOLE, "import.hard_candidates", "\"hard\"", "import.hard_candidates=9", "import.negatives=hard");
    let judged = format!("{WHOLE}[signal]\nby='judge'\n");
    assert!(parse(&judged, &["signal.summaries=s.jsonl"]).is_ok());
    check(WHOLE, "signal.summaries", "by = \"judge\"", "signal.summaries=s.jsonl", "signal.summaries=");
    let world = "steps=['import']\n[import]\nformat='world'\n";
    for (key, expected, refused, accepted) in [
        ("users", "at least 1", "0", "1"),
        ("least_interactions", "at least 1", "0", "1"),
        ("most_interactions", "at least least_interactions (9)", "8", "9"),
        ("population", "\"held_out\"", "heldout", "held_out"),
        ("targets", "a whole number", "-1", "2"),
        ("transfer_targets", "a whole number", "-1", "2"),
    ] {
        let key = format!("import.world.{key}");
        check(world, &key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
}

#[test]
fn generic_rows_are_pairs_or_positives_with_texts() {
    let generic = |columns: &str| format!("steps=['import']\n[import]\nformat='generic'\ninput=['a.csv']\n{columns}");
    let pairs = generic("[import.columns]\nchosen='c'\n");
    for (key, expected, refused, accepted) in [
        ("user", "the id of the user", "user=''", "user=u"),
        ("item", "not both", "item=i", "rejected=r"),
        ("text", "a column `item` beside it", "text=t", "task=t"),
        ("items", "a column `item` beside it", "items=i.csv", "query=q"),
        ("rating", "a column `item` beside it", "rating=r", "time=t"),
        ("item_id", "the file `items`", "item_id=asin", "item_id=id"),
        ("delimiter", "a single ASCII character", "delimiter=ab", "delimiter=';'"),
    ] {
        let of = |value: &str| format!("import.columns.{value}");
        check(&pairs, &format!("import.columns.{key}"), expected, &of(refused), &of(accepted));
    }
    let positives = generic("[import.columns]\nitem='i'\ntext='t'\n");
    for (key, expected, refused) in [
        ("items", "the column with the text", "text=''"),
        ("rejected", "a column `chosen` beside it", "rejected=r"),
        ("task", "a column `chosen` beside it", "task=t"),
        ("text", "not both", "items=i.csv"),
    ] {
        let refused = format!("import.columns.{refused}");
        check(&positives, &format!("import.columns.{key}"), expected, &refused, "import.columns.rating=r");
    }
    let table = generic("[import.columns]\nitem='i'\nitems='items.csv'\n");
    let domain = "import.columns.domain";
    check(&table, domain, "`item_domain`", "import.columns.domain=d", "import.columns.item_domain=d");
    for (key, accepted) in [("item_id", "asin"), ("item_text", "title")] {
        let key = format!("import.columns.{key}");
        check(&table, &key, "the column with the", &format!("{key}=''"), &format!("{key}={accepted}"));
    }
    check(
        &generic(""),
        "import.columns.chosen",
        "the column with the text of the chosen item",
        "seed=1",
        "import.columns.chosen=c",
    );
}

#[test]
fn only_listed_steps_require_their_keys() {
    let refused = |steps: &str, key: &str, expected: &str| {
        let error = parse(steps, &[]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}` ")) && error.contains(expected), "{steps}: {error}");
    };
    refused("steps=['import']", "import.format", "the format of the files");
    refused("steps=['import']\nimport.format='mind'", "import.input", "a list of files");
    refused("steps=['signal']", "scorer.model.path", "a model folder");
    refused("steps=['signal']\nsignal.by='judge'", "verifier.model.path", "a model folder");
    refused("steps=['prune']\nprune.by='policy'", "prune.policy.model.path", "a model folder");
    refused("steps=['teach']", "teacher.model.path", "a model folder");
    refused("steps=['teach']\nteacher.model.path='t'", "verifier.model.path", "a model folder");
    let served = "steps=['teach']\nteacher.endpoint.url='http://n:1/v1'\nverifier.model.path='v'\n";
    refused(served, "teacher.endpoint.model", "the name of the model");
    refused(&format!("{served}teacher.model.path='t'"), "teacher.model.path", "at an endpoint");
    let world = "steps=['teach']\nteacher.world=true\nverifier.model.path='v'\n";
    assert!(parse(world, &[]).is_ok());
    for other in ["model.path='t'", "endpoint.model='t'", "prices.prompt=1"] {
        refused(&format!("{world}teacher.{other}"), "teacher.world", "no model");
    }
    let trained = "steps=['signal']\nscorer.trained='runs/scorer'\n";
    assert!(parse(trained, &[]).is_ok());
    assert!(parse(&format!("{trained}scorer.model.dtype='fp32'\nscorer.max_length=99"), &[]).is_ok());
    for (key, value) in
        [("model.path", "path='s'"), ("train_max_length", "9"), ("train", "epochs=2"), ("optimizer", "lr=1e-3")]
    {
        let table = key.split('.').next().unwrap();
        let text = match value.contains('=') {
            true => format!("{trained}scorer.{table}.{value}"),
            false => format!("{trained}scorer.{key}={value}"),
        };
        refused(&text, &format!("scorer.{key}"), "not trained again");
    }
    let answers = "steps=['teach']\nteach.verify='answer'\nteacher.world=true\nverifier.model.path='v'\n";
    assert!(parse(answers, &[]).is_ok());
    refused(&format!("{answers}verifier.mode='reasoned'"), "verifier.mode", "the verifier writes an answer");
    refused(&format!("{answers}verifier.max_new_tokens=0"), "verifier.max_new_tokens", "at least 1");
    assert!(
        parse(&format!("{answers}teach.max_users=3").replace("'answer'", "'probability'"), &["verifier.mode=reasoned"])
            .is_ok()
    );
    let config = parse("steps=['prune', 'export']", &[]).unwrap();
    assert!(config.check_step(SynthStep::Prune).is_ok());
    let error = config.check_step(SynthStep::Teach).unwrap_err().to_string();
    assert!(error.contains("`teacher.model.path` is not set"), "{error}");
}

#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let text = format!("{WHOLE}[teach.thresholds]\nretest = 2\n");
    let error = parse(&text, &[]).unwrap_err().to_string();
    assert!(error.starts_with("my.toml:11: `teach.thresholds.retest` is 2; expected a number from 0 to 1"), "{error}");
    let error = parse("[teach]\nseperator = '#'\n", &[]).unwrap_err().to_string();
    assert!(error.contains("my.toml:2: unknown key `teach.seperator`; did you mean `teach.separator`?"), "{error}");
}

#[test]
fn the_defaults_are_the_published_values() {
    let config = SynthConfig::default();
    let thresholds =
        SynthesisConfig { target_probability: 0.9, most_targets: 5, least_targets: 4, least_correct: 3, retest: 0.8 };
    assert_eq!((&config.teach.thresholds, config.teach.least_third), (&thresholds, 3));
    let sampling = &config.teach.sampling;
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_new_tokens), (0.6, 20, 0.95, 4096));
    let (scorer, optimizer) = (&config.scorer, &config.scorer.optimizer);
    assert_eq!((scorer.train_max_length, scorer.max_length, scorer.train.epochs), (8192, 16384, 1));
    assert_eq!((optimizer.lr, config.signal.max_interactions, config.import.test_share), (1e-4, 100, 0.2));
    assert_eq!((optimizer.schedule, optimizer.warmup_ratio), (Schedule::Linear, 0.0));
    let rule = &config.prune.thresholds;
    assert_eq!((rule.rule, rule.band_width, rule.least_window), (PruningRule::Published, 0.1, 1));
    // The world keeps its own rule.
    assert_eq!(QuickstartConfig::default().pruning.rule, PruningRule::Windowed);
    assert_eq!(PruningConfig::default().rule, PruningRule::Windowed);
    // A table that sets one key keeps the published values of the others.
    let changed = parse(WHOLE, &["prune.thresholds.band_end=0.5", "scorer.train.batch_size=4"]).unwrap();
    assert_eq!((changed.prune.thresholds.rule, changed.scorer.train.epochs), (PruningRule::Published, 1));
}

#[test]
fn the_file_of_the_published_pipeline_says_what_the_defaults_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("synth-alignxplore-plus.toml");
    let config: SynthConfig = configs::load(&path, &[]).unwrap();
    let plain = SynthConfig::default();
    assert_eq!((&config.signal, &config.prune), (&plain.signal, &plain.prune));
    assert_eq!((&config.scorer.train, &config.scorer.optimizer), (&plain.scorer.train, &plain.scorer.optimizer));
    assert_eq!((&config.teach.thresholds, &config.teach.sampling), (&plain.teach.thresholds, &plain.teach.sampling));
    assert_eq!(
        (config.teach.verify, config.signal.by, config.prune.by),
        (VerifyBy::Answer, SignalBy::Scorer, PruneBy::Signal)
    );
    assert_eq!((config.verifier.mode, config.verifier.orders), (JudgeMode::Sampled, ItemOrders::One));
    // Negatives, order and minimum history are those of the format.
    let import = &config.import;
    assert_eq!((import.negatives, import.order, import.min_history), (None, None, None));
    assert_eq!((import.duplicates, import.replacement, import.rating_threshold), (None, None, None));
}

#[test]
fn every_value_survives_being_written_out() {
    let set = [
        "import.negatives=hard",
        "import.hard_candidates=7",
        "import.order=time",
        "import.duplicates=items",
        "import.rating_threshold=3.5",
        "import.replacement=false",
        "import.min_history=12",
        "signal.by=judge",
        "signal.summaries=s.jsonl",
        "prune.by=policy",
        "prune.policy.model.path=p",
        "export.formats=['parquet']",
    ];
    let config = parse(WHOLE, &set).unwrap();
    let import = &config.import;
    assert_eq!((import.negatives, import.hard_candidates), (Some(NegativePolicy::Hard), 7));
    assert_eq!((import.order, import.duplicates), (Some(ImportOrder::Time), Some(Duplicates::Items)));
    assert_eq!((import.rating_threshold, import.replacement, import.min_history), (Some(3.5), Some(false), Some(12)));
    assert_eq!(parse(&config.resolved().unwrap(), &[]).unwrap(), config);
    let world =
        parse("steps=['import']\nimport={format='world', world={population='held_out', users=3}}", &[]).unwrap();
    assert_eq!((world.import.world.population, world.import.world.users), (WorldPopulation::HeldOut, 3));
    assert_eq!(parse(&world.resolved().unwrap(), &[]).unwrap(), world);
}

/// A step runs again if what its output depends on changes, and only then.
#[test]
fn the_text_of_a_step_holds_what_its_output_depends_on() {
    for (set, expected) in [
        ("seed=1", vec![Import, Signal, Teach, Export]),
        ("import.test_share=0.5", vec![Import]),
        ("scorer.optimizer.lr=1e-3", vec![Signal]),
        ("prune.thresholds.band_end=0.5", vec![Prune]),
        ("teach.separator='#'", vec![Teach]),
        ("teacher.model.path=other", vec![Teach]),
        ("prompts=compact", vec![Teach]),
        ("verifier.no_answer=0", vec![Teach]),
        ("export.license=mit", vec![Export]),
        ("name=other", vec![Export]),
        // Speed, costs and the steps that run.
        ("threads=3", vec![]),
        ("out=elsewhere", vec![]),
        ("steps=['import']", vec![]),
        ("teach.users_per_batch=1", vec![]),
        ("teach.verifier_prices.prompt=1", vec![]),
        ("teacher.prices.prompt=1", vec![]),
        ("scorer.train.micro_batch_tokens=512", vec![]),
        ("scorer.train.activation_checkpointing_every=1", vec![]),
        ("teacher.model.kv_cache_gib=1", vec![]),
        ("teacher.endpoint.retries=1", vec![]),
        ("verifier.model.max_num_seqs=1", vec![]),
        ("verifier.placement=offload", vec![]),
    ] {
        assert_eq!(changed(&[], set), expected, "{set}");
    }
    // The judge and a policy are prompted and sampled, the scorer and the published rule are not.
    let by_models = ["signal.by=judge", "prune.by=policy", "prune.policy.model.path=p"];
    for (set, expected) in [
        ("seed=1", vec![Import, Signal, Prune, Teach, Export]),
        ("prompts=compact", vec![Signal, Prune, Teach]),
        ("verifier.no_answer=0", vec![Signal, Prune, Teach]),
        ("signal.max_interactions=5", vec![Signal]),
        ("prune.policy.num_generations=2", vec![Prune]),
        ("scorer.optimizer.lr=1e-3", vec![]),
        ("prune.policy.model.max_num_seqs=1", vec![]),
    ] {
        assert_eq!(changed(&by_models, set), expected, "{set}");
    }
}

#[test]
fn the_text_of_a_step_is_read_as_it_was_written() {
    let endpoint = ["verifier.model.path=''", "verifier.endpoint.url='http://x/v1'", "verifier.endpoint.model=m"];
    let config = parse(WHOLE, &[&endpoint[..], &["signal.by=judge", "teacher.model.path=other"]].concat()).unwrap();
    for step in SynthStep::ALL {
        let read = SynthConfig::of_step_text(&config.step_text(step).unwrap()).unwrap();
        assert_eq!(read.teacher.model.path, if step == Teach { "other" } else { "" });
        assert_eq!(read.verifier.endpoint.model, if [Signal, Teach].contains(&step) { "m" } else { "" });
    }
    assert_eq!(SynthConfig::of_step_text("unknown = 1"), None);
}

/// Returns the steps whose text `set` changes in the pipeline with the overrides `base`.
fn changed(base: &[&str], set: &str) -> Vec<SynthStep> {
    let (plain, other) = (parse(WHOLE, base).unwrap(), parse(WHOLE, &[base, &[set]].concat()).unwrap());
    let differs = |step: &SynthStep| plain.step_text(*step).unwrap() != other.step_text(*step).unwrap();
    SynthStep::ALL.into_iter().filter(differs).collect()
}
