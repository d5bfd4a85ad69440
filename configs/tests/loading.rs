//! Files, `extends`, overrides, and their errors, from the user's point of view.

use std::fs;
use std::path::{Path, PathBuf};

use configs::{ConfigError, Origin, RlConfig, RunConfig, Schedule, SftConfig, Start};
use tempfile::TempDir;

const SFT: &str = "[model]\npath = \"base\"\n[data]\ntrain = \"rows.jsonl\"\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn sft(text: &str, overrides: &[&str]) -> Result<SftConfig, ConfigError> {
    configs::parse("my.toml", text, &owned(overrides))
}

fn owned(overrides: &[&str]) -> Vec<String> {
    overrides.iter().map(ToString::to_string).collect()
}

/// Returns the error's text, which must contain all of `parts`.
#[track_caller]
fn refused<T>(result: Result<T, ConfigError>, parts: &[&str]) -> String {
    let Err(error) = result else { panic!("was accepted") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert!(!text.contains('\n'), "one paragraph: {text}");
    text
}

#[test]
fn what_is_left_out_has_the_default_of_its_own_config() {
    let config = sft(&format!("{SFT}[optimizer]\neps = 1e-7\n"), &[]).unwrap();
    assert_eq!((config.optimizer.lr, config.optimizer.schedule), (2e-5, Schedule::Cosine));
    let text = "[model]\npath='p'\n[judge.model]\npath='j'\n[data]\ntrain='r'\n[optimizer]\neps = 1e-7\n";
    let config: RlConfig = configs::parse("my.toml", text, &[]).unwrap();
    assert_eq!((config.optimizer.lr, config.optimizer.schedule), (1e-6, Schedule::Constant));
    assert_eq!((config.optimizer.eps, config.optimizer.weight_decay, config.checkpoint.every), (1e-7, 0.01, 30));
}

#[test]
fn a_misspelt_key_is_named_with_file_line_and_the_nearest_key() {
    let text = format!("{SFT}\n[optimizer]\neps = 1e-8\nweigth_decay = 0.1\n");
    refused(sft(&text, &[]), &["my.toml:8: unknown key `optimizer.weigth_decay`", "mean `optimizer.weight_decay`?"]);
    refused(sft(&format!("{SFT}[optimzer]\nlr = 1\n"), &[]), &["my.toml:5:", "`optimzer`", "mean `optimizer`?"]);
    refused(sft(&format!("extend = 'x'\n{SFT}"), &[]), &["my.toml:1:", "`extend`", "mean `extends`?"]);
    // No similar key exists: the known keys are listed instead.
    refused(
        sft(&format!("{SFT}[checkpoint]\nzzz = 1\n"), &[]),
        &["my.toml:6:", "use one of `every`, `every_epoch`, `keep_last`, `keep_every`, `best`, `at_end` and `state`"],
    );
}

#[test]
fn a_key_in_the_wrong_table_or_with_another_trainers_name_is_led_home() {
    refused(sft(&format!("lr = 1\n{SFT}"), &[]), &["my.toml:1: unknown key `lr`", "mean `optimizer.lr`?"]);
    refused(sft(&format!("{SFT}[train]\nlearning_rate = 1\n"), &[]), &["my.toml:6:", "mean `optimizer.lr`?"]);
    refused(sft(&format!("{SFT}[train]\nnum_train_epochs = 1\n"), &[]), &["mean `train.epochs`?"]);
}

#[test]
fn a_wrong_type_is_named_with_what_was_expected_and_an_example() {
    for (lines, parts) in [
        (
            "[train]\nepochs = \"four\"",
            ["my.toml:6: `train.epochs` is \"four\"", "a whole number, 0 or more", "`epochs = 4`"],
        ),
        ("[train]\nepochs = -1", ["`train.epochs` is -1", "a whole number, 0 or more", "`epochs = 4`"]),
        ("[train]\nepochs = 1.5", ["`train.epochs` is 1.5", "a whole number, 0 or more", "`epochs = 4`"]),
        ("[optimizer]\nlr = true", ["`optimizer.lr` is true", "expected a number", "`lr = "]),
        (
            "[optimizer]\nbetas = [0.9]",
            ["my.toml:6: `optimizer.betas` is [0.9]", "a list of 2", "`betas = [0.9, 0.999]`"],
        ),
        ("[optimizer]\nbetas = [\n0.9,\n'x']", ["my.toml:8: `optimizer.betas[1]` is \"x\"", "a number", "expected"]),
        (
            "[optimizer]\nschedule = 3",
            ["`optimizer.schedule` is 3", "one of the allowed names", "`schedule = \"cosine\"`"],
        ),
        ("[optimizer]\nschedule = 'cosin'", ["is \"cosin\" (did you mean \"cosine\"?)", "\"linear\" or", "my.toml:6"]),
        ("[checkpoint]\nevery = [1]", ["`checkpoint.every` is [1]", "a whole number, 0 or more", "`every = 0`"]),
    ] {
        refused(sft(&format!("{SFT}{lines}\n"), &[]), &parts);
    }
    refused(
        sft("train = 3\n", &[]),
        &["my.toml:1: `train` is 3; expected a table with the keys `epochs`, `max_steps`"],
    );
    refused(sft("out = 3\n", &[]), &["my.toml:1: `out` is 3; expected a path in quotes", "`out = \"runs\"`"]);
    refused(sft("name = 3\n", &[]), &["my.toml:1: `name` is 3; expected a string in quotes", "`name = \"sft\"`"]);
    refused(sft("[data]\nshuffle = 0\n", &[]), &["my.toml:2: `data.shuffle` is 0; expected true or false"]);
    let terms = "[reward]\nterms = [{name = 'judge'}, {name = 'short', wieght = 1}]\n";
    let known = "mean `reward.terms[1].weight`?";
    refused(configs::parse::<RlConfig>("my.toml", terms, &[]), &["my.toml:2:", "`reward.terms[1].wieght`", known]);
}

#[test]
fn broken_toml_is_named_by_line_and_column() {
    refused(sft("name = \"a\"\nseed = = 3\n", &[]), &["my.toml:2:8: invalid TOML"]);
    refused(sft("seed = 1\nseed = 2\n", &[]), &["my.toml:2:1: invalid TOML", "duplicate key"]);
}

#[test]
fn extends_merges_tables_and_the_nearer_file_wins() {
    let files = folder(&[
        ("base.toml", &format!("name = 'base'\nseed = 1\n{SFT}[optimizer]\nlr = 1e-3\nbetas = [0.8, 0.9]\n")),
        ("mid.toml", "extends = 'base.toml'\nseed = 2\n[optimizer]\nbetas = [0.7, 0.8]\n"),
        ("top.toml", "extends = 'mid.toml'\nseed = 3\n"),
    ]);
    let config: SftConfig = configs::load(&files.path().join("top.toml"), &owned(&["seed=4"])).unwrap();
    assert_eq!((config.name.as_str(), config.seed, config.optimizer.lr), ("base", 4, 1e-3));
    assert_eq!(config.optimizer.betas, [0.7, 0.8]);
    assert_eq!(config.folder(), PathBuf::from("runs/base"));
}

#[test]
fn extends_is_relative_to_the_file_that_says_so() {
    let files = folder(&[("base.toml", SFT)]);
    fs::create_dir(files.path().join("inner")).unwrap();
    let top = files.path().join("inner/top.toml");
    fs::write(&top, "extends = '../base.toml'\n").unwrap();
    assert_eq!(configs::load::<SftConfig>(&top, &[]).unwrap().data.train, Path::new("rows.jsonl"));
}

#[test]
fn errors_name_the_file_in_which_the_key_stands() {
    let files = folder(&[
        ("base.toml", &format!("{SFT}[train]\nepochs = 0\nbatch_size = 'x'\n")),
        ("top.toml", "extends = 'base.toml'\n\n[train]\nmax_steps = 3\n"),
        ("mended.toml", "extends = 'base.toml'\n\n[train]\nbatch_size = 3\n"),
        ("twice.toml", "extends = 'mended.toml'\n[train]\n\nepochs = -1\n"),
    ]);
    let load = |name: &str| configs::load::<SftConfig>(&files.path().join(name), &[]);
    refused(load("top.toml"), &["base.toml:7: `train.batch_size`"]);
    refused(load("mended.toml"), &["base.toml:6: `train.epochs` is 0; expected at least 1", "`epochs = 4`"]);
    refused(load("twice.toml"), &["twice.toml:4: `train.epochs` is -1"]);
}

#[test]
fn extends_in_a_circle_is_refused() {
    let files = folder(&[
        ("a.toml", "seed = 1\nextends = 'b.toml'\n"),
        ("b.toml", "extends = './c.toml'\n"),
        ("c.toml", "extends = 'a.toml'\n"),
        ("self.toml", "extends = 'self.toml'\n"),
    ]);
    let load = |name: &str| configs::load::<SftConfig>(&files.path().join(name), &[]);
    let text = refused(load("a.toml"), &["c.toml:1: `extends` forms a cycle", "remove one"]);
    assert_eq!(text.matches(" → ").count(), 3, "{text}");
    refused(load("self.toml"), &["self.toml:1: `extends` forms a cycle"]);
}

#[test]
fn a_missing_file_is_named_with_who_asked_for_it() {
    let files = folder(&[("top.toml", "\nextends = 'gone.toml'\n"), ("bad.toml", "extends = 3\n")]);
    let load = |name: &str| configs::load::<SftConfig>(&files.path().join(name), &[]);
    refused(load("top.toml"), &["gone.toml", "top.toml:2)", "No such file", "check path and permissions"]);
    refused(load("nowhere.toml"), &["cannot read config", "nowhere.toml:", "check path and permissions"]);
    refused(load("bad.toml"), &["bad.toml:1: `extends` is 3", "in quotes", "extends = \"base.toml\""]);
}

#[test]
fn overrides_are_read_as_toml_and_else_as_text() {
    let overrides =
        ["optimizer.lr=1e-5", "name=night run", "data.shuffle=false", "optimizer.betas=[0.9, 0.95]", "seed=7"];
    let config = sft(SFT, &overrides).unwrap();
    assert_eq!((config.optimizer.lr, config.name.as_str(), config.data.shuffle), (1e-5, "night run", false));
    assert_eq!((config.optimizer.betas, config.seed), ([0.9, 0.95], 7));
    assert_eq!(sft(SFT, &["name='7'"]).unwrap().name, "7");
    assert_eq!(sft(SFT, &["name=a=b"]).unwrap().name, "a=b");
    // The last of two overrides wins, and an index selects a list element.
    assert_eq!(sft(SFT, &["seed=1", "seed=2", "optimizer.betas.0=0.5"]).unwrap().optimizer.betas, [0.5, 0.999]);
    // A table that the defaults do not contain.
    let config = sft("[data]\ntrain='r'", &["model.shape.layers=2"]).unwrap();
    let Start::Random { shape, .. } = config.model.start() else { panic!("{:?}", config.model) };
    assert_eq!((shape.layers, shape.heads), (2, 4));
}

#[test]
fn errors_of_overrides_name_the_override() {
    for (text, parts) in [
        ("optimizer.lrr=1", ["--set optimizer.lrr=1: unknown key `optimizer.lrr`", "mean `optimizer.lr`?"]),
        ("lr=1", ["--set lr=1: unknown key `lr`", "mean `optimizer.lr`?"]),
        ("train.epochs=four", ["--set train.epochs=four: `train.epochs` is \"four\"", "a whole number"]),
        ("train.epochs=0", ["--set train.epochs=0: `train.epochs` is 0", "write it like `--set train.epochs=4`"]),
        ("name=3", ["--set name=3: `name` is 3; expected a string in quotes", "write it like `--set name=sft`"]),
        ("train.epochs.x=1", ["--set train.epochs.x=1: `train.epochs` is 4", "set it with train.epochs=value"]),
        ("optimizer.betas.2=1", ["--set optimizer.betas.2=1: `optimizer.betas` is a list of 2", "below 2"]),
        ("optimizer.lr", ["--set optimizer.lr: missing `=`", "key=value"]),
        ("=1", ["--set =1: empty key", "key=value"]),
        ("train..epochs=1", ["empty key", "key=value"]),
        ("extends=base.toml", ["`extends` is valid only in config files", "--config"]),
    ] {
        refused(sft(SFT, &[text]), &parts);
    }
}

#[test]
fn what_is_required_is_asked_for() {
    let text = refused(sft("[data]\ntrain = 'r'\n", &[]), &["my.toml: `model.path` is not set", "[model.shape]"]);
    assert!(!text.contains("write it like"), "{text}");
    refused(sft("[model]\npath = 'p'\n", &[]), &["my.toml: `data.train` is not set", "JSONL"]);
    refused(sft("[model]\npath = 'p'\n\n[data]\nshuffle = true\n", &[]), &["my.toml:4: `data.train` is not set"]);
}

#[test]
fn an_empty_path_takes_back_what_an_extended_file_gives() {
    let files = folder(&[("base.toml", SFT), ("top.toml", "extends='base.toml'\n[model]\nshape.layers = 1\n")]);
    let load = |overrides: &[&str]| configs::load::<SftConfig>(&files.path().join("top.toml"), &owned(overrides));
    refused(load(&[]), &["base.toml:2: `model.path` is \"base\", set together with", "either", "path = \"\""]);
    assert!(matches!(load(&["model.path="]).unwrap().model.start(), Start::Random { .. }));
    assert!(matches!(sft(SFT, &[]).unwrap().model.start(), Start::Existing(model) if model.path == "base"));
}

#[test]
fn a_value_changed_in_code_is_checked_too() {
    let mut config = sft(SFT, &[]).unwrap();
    config.check().unwrap();
    config.optimizer.lr = f64::NAN;
    let error = config.check().unwrap_err();
    assert!(matches!(&error, ConfigError::Value { origin: Origin::Code, key, .. } if key == "optimizer.lr"), "{error}");
}

#[test]
fn presets_are_extended_by_name_and_the_published_one_is_nearly_the_default() {
    const REST: &str = "[model]\npath='p'\n[judge.model]\npath='j'\n[data]\ntrain='r'\n";
    let with = |preset: &str| configs::parse::<RlConfig>("my.toml", &format!("extends='preset:{preset}'\n{REST}"), &[]);
    let plain: RlConfig = configs::parse("my.toml", REST, &[]).unwrap();
    let mut published = plain;
    published.judge.orders = configs::ItemOrders::One;
    published.judge.mode = configs::JudgeMode::Sampled;
    (published.judge.max_new_tokens, published.judge.no_answer) = (16, 0.0);
    published.reward.gate = configs::rl::reward::FormatGate::Published;
    published.algorithm.old_logprobs = configs::rl::algorithm::OldLogprobs::Recompute;
    assert_eq!(with("streaming-published").unwrap(), published);
    let each = with("streaming-unbiased").unwrap();
    assert_eq!((each.rollout.carry, each.rollout.generations_per_user()), (configs::rl::rollout::Carry::Each, 12));
    let refusal = with("streaming-publised").unwrap_err().to_string();
    assert!(refusal.contains("my.toml:1") && refusal.contains("did you mean `streaming-published`"), "{refusal}");
}
