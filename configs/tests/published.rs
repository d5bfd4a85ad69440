//! The published settings are those of the presets, and every key of a preset has its place in the table.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use configs::published::{self, Agreement, Comparison, RecipeStage};
use configs::{EvalConfig, RlConfig, SftConfig};
use toml::{Table, Value};

fn preset(stage: RecipeStage) -> PathBuf {
    let name = if stage == RecipeStage::Sft { "sft-alignxplore-plus.toml" } else { "rl-alignxplore-plus.toml" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn compared(stage: RecipeStage, overrides: &[&str]) -> Vec<Comparison> {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    match stage {
        RecipeStage::Sft => {
            published::compare(stage, &configs::load::<SftConfig>(&preset(stage), &overrides).unwrap()).unwrap()
        }
        _ => published::compare(stage, &configs::load::<RlConfig>(&preset(stage), &overrides).unwrap()).unwrap(),
    }
}

/// Returns the settings whose value is not the one that the table states for the preset.
fn mismatches(stage: RecipeStage, overrides: &[&str]) -> Vec<String> {
    let wrong = |found: &Comparison| !published::same(found.ours.as_ref(), found.setting.preset_value());
    let words = |found: Comparison| {
        let (key, ours) = (&found.setting.key, published::shown(found.ours.as_ref()));
        format!("{key} = {ours}, claimed {}", published::shown(found.setting.preset_value()))
    };
    compared(stage, overrides).into_iter().filter(wrong).map(words).collect()
}

#[test]
fn the_presets_have_the_claimed_values() {
    for stage in [RecipeStage::Sft, RecipeStage::Rl] {
        assert!(compared(stage, &[]).len() > 20);
        assert_eq!(mismatches(stage, &[]), Vec::<String>::new(), "{}", preset(stage).display());
        let other = |found: &Comparison| !matches!(found.agreement, Agreement::Same | Agreement::PresetDeviation);
        let others: Vec<_> = compared(stage, &[]).into_iter().filter(other).collect();
        assert!(others.is_empty(), "deviations without a reason: {others:?}");
    }
}

#[test]
fn a_changed_value_is_found() {
    assert_eq!(mismatches(RecipeStage::Sft, &["optimizer.lr=1e-5"]), ["optimizer.lr = 1e-5, claimed 2e-5"]);
    assert_eq!(
        mismatches(RecipeStage::Sft, &["train.batch_size=16"]),
        ["train.batch_size = 16, claimed \"published\""]
    );
    let changed = ["optimizer.no_decay=['norm']", "reward.carry_discount=0.5"];
    assert_eq!(
        mismatches(RecipeStage::Rl, &changed),
        ["reward.carry_discount = 0.5, claimed 0.9", "optimizer.no_decay = [\"norm\"], claimed []"]
    );
    // The table says that the preset deviates here; the published value is as wrong as any other.
    assert_eq!(mismatches(RecipeStage::Rl, &["prompts=prompts/rl"]), ["prompts = \"prompts/rl\", claimed \"plain\""]);
    assert_eq!(mismatches(RecipeStage::Rl, &["lora.rank=4"]).len(), 1);
}

#[test]
fn every_entry_is_complete_and_unique() {
    let recipe = published::recipe();
    let mut seen = HashSet::new();
    for setting in &recipe.settings {
        let at = format!("{:?} {}", setting.stage, setting.key);
        assert!(seen.insert(at.clone()), "{at} is listed twice");
        assert!(!setting.name.is_empty() && setting.why.ends_with('.'), "{at}");
        assert_eq!(setting.preset.is_some(), !setting.deviation.is_empty(), "{at}");
        assert!(setting.preset.is_none() || setting.preset != setting.value, "{at}: no deviation");
    }
    for difference in &recipe.differences {
        assert!(!difference.title.is_empty() && difference.text.ends_with('.'), "{difference:?}");
    }
    let ids: HashSet<_> = recipe.benchmarks.iter().map(|benchmark| &benchmark.id).collect();
    assert_eq!(ids.len(), recipe.benchmarks.len());
    for benchmark in &recipe.benchmarks {
        assert!(!benchmark.files.is_empty() && (50.0..100.0).contains(&benchmark.full.min(benchmark.streaming)));
    }
}

/// Collects the paths of the values of a table.
fn leaves(table: &Table, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => leaves(inner, &path, out),
            _ => out.push(path),
        }
    }
}

/// A key that a preset sets is a claim, or it does not belong to the recipe.
#[test]
fn every_key_of_a_preset_is_in_the_table() {
    let recipe = published::recipe();
    for stage in [RecipeStage::Sft, RecipeStage::Rl] {
        let mut keys = Vec::new();
        leaves(&toml::from_str(&fs::read_to_string(preset(stage)).unwrap()).unwrap(), "", &mut keys);
        if stage == RecipeStage::Rl {
            let extended = configs::presets::preset("streaming-published").unwrap();
            leaves(&toml::from_str(extended).unwrap(), "", &mut keys);
        }
        let claimed = recipe.settings.iter().filter(|s| s.stage == stage).map(|s| s.key.as_str());
        let execution = recipe.execution.iter().filter(|e| e.stage == stage).flat_map(|e| &e.keys).map(String::as_str);
        let known: HashSet<&str> = claimed.chain(execution).chain(["extends"]).collect();
        let missing: Vec<_> = keys.iter().filter(|key| !known.contains(key.as_str())).collect();
        assert!(missing.is_empty(), "configs/published/alignxplore-plus.toml lacks {missing:?} of stage {stage}");
    }
}

/// The evaluation has no preset; its keys exist, and their published values are valid.
#[test]
fn an_evaluation_can_have_the_published_values() {
    let text = "users = 'mind_test.jsonl'\n[[models]]\nname = 'rl'\nmodel.path = 'm'\n[[judges]]\nname = 'judge'\n";
    let mut values = String::from("[judges.judge]\n");
    let mut overrides = Vec::new();
    for setting in published::recipe().settings.iter().filter(|setting| setting.stage == RecipeStage::Eval) {
        let value = published::shown(setting.value.as_ref());
        match setting.key.strip_prefix("judges[0].judge.") {
            Some(key) => values.push_str(&format!("{key} = {value}\n")),
            None => overrides.push(format!("{}={value}", setting.key)),
        }
    }
    let config: EvalConfig = configs::parse("eval.toml", &format!("{text}{values}"), &overrides).unwrap();
    for found in published::compare(RecipeStage::Eval, &config).unwrap() {
        assert_eq!(found.agreement, Agreement::Same, "{found:?}");
    }
}
