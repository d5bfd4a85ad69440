//! Key paths (`reward.terms[0].name`), the set of known keys, and suggestions for unknown ones.

use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use crate::error::{ConfigError, Origin, list};
use crate::key_path::{child, element};
use crate::merge::Layers;

/// The only key that the loader itself reads.
pub(crate) const EXTENDS: &str = "extends";

/// Names that other trainers (TRL, verl, Hugging Face) give to the keys of this crate.
const ELSEWHERE: &[(&str, &str)] = &[
    ("adam_epsilon", "eps"),
    ("clip_ratio_c", "dual_clip"),
    ("clip_ratio_high", "clip_high"),
    ("clip_ratio_low", "clip_low"),
    ("dataloader_drop_last", "drop_last"),
    ("delta", "dual_clip"),
    ("entropy_coef", "entropy_coefficient"),
    ("entropy_coeff", "entropy_coefficient"),
    ("epsilon", "clip_low"),
    ("epsilon_high", "clip_high"),
    ("gamma", "carry_discount"),
    ("gradient_accumulation_steps", "batch_size"),
    ("importance_sampling_level", "ratio"),
    ("kl_loss_type", "estimator"),
    ("learning_rate", "lr"),
    ("loss_agg_mode", "aggregation"),
    ("loss_type", "aggregation"),
    ("lr_scheduler_type", "schedule"),
    ("mask_truncated_completions", "mask_truncated"),
    ("max_completion_length", "max_new_tokens"),
    ("max_grad_norm", "grad_clip"),
    ("max_prompt_length", "max_prompt_tokens"),
    ("max_response_length", "max_new_tokens"),
    ("max_seq_length", "max_length"),
    ("n", "num_generations"),
    ("num_train_epochs", "epochs"),
    ("per_device_train_batch_size", "batch_size"),
    ("ppo_epochs", "num_iterations"),
    ("ppo_mini_batch_size", "num_minibatches"),
    ("ppo_max_token_len_per_gpu", "micro_batch_tokens"),
    ("ppo_micro_batch_size_per_gpu", "micro_batch_sequences"),
    ("save_freq", "every"),
    ("save_steps", "every"),
    ("save_strategy", "every_epoch"),
    ("scale_rewards", "advantage"),
    ("train_batch_size", "users_per_step"),
    ("lora_alpha", "alpha"),
    ("lora_dropout", "dropout"),
    ("lora_rank", "rank"),
    ("r", "rank"),
    ("target_modules", "targets"),
    ("truncation_mode", "truncation"),
];

/// Formats a value for an error message.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Table(_) => "a table".into(),
        Value::Array(items) if items.len() > 4 => format!("a list of {}", items.len()),
        other => other.to_string(),
    }
}

/// Returns the value at a path.
pub(crate) fn lookup<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    let mut segments = path.split(['.', '[']);
    let mut at = table.get(segments.next()?)?;
    for segment in segments {
        at = match segment.strip_suffix(']') {
            Some(index) => at.get(index.parse::<usize>().ok()?)?,
            None => at.get(segment)?,
        };
    }
    Some(at)
}

/// Returns the key's default, written in the way in which the key was set; `None` if the key has no default (required keys are
/// empty by default).
pub(crate) fn example(defaults: &Table, key: &str, origin: &Origin) -> Option<String> {
    let value = lookup(defaults, key)?;
    let name = key.rsplit('.').next()?;
    match value {
        Value::Table(_) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        _ if name.contains('[') => None,
        Value::String(text) if matches!(origin, Origin::Override(_)) => Some(format!("--set {key}={text}")),
        _ if matches!(origin, Origin::Override(_)) => Some(format!("--set {key}={value}")),
        _ => Some(format!("{name} = {value}")),
    }
}

/// Translates an error of serde into a [`ConfigError`].
pub(crate) fn explain(
    refused: &serde_path_to_error::Error<toml::de::Error>,
    layers: &Layers,
    defaults: &Table,
) -> ConfigError {
    let path = written(refused.path());
    let message = refused.inner().message();
    let names = quoted(message);
    if message.starts_with("unknown field")
        && let [_, known @ ..] = names.as_slice()
    {
        return unknown_key(&path, known, layers, defaults);
    }
    let mut problem = problem(message, &names, lookup(&layers.table, &path));
    if let Some(Value::Table(table)) = lookup(defaults, &path) {
        problem = format!("{problem} with the keys {}", list(&table.keys().cloned().collect::<Vec<_>>()));
    }
    let origin = layers.origin(&path);
    ConfigError::Value { example: example(defaults, &path, &origin), origin, key: path, problem }
}

fn unknown_key(path: &str, known: &[String], layers: &Layers, defaults: &Table) -> ConfigError {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut known = known.to_vec();
    if parent.is_empty() {
        known.push(EXTENDS.into());
    }
    let ours = ELSEWHERE.iter().find(|(theirs, _)| *theirs == key).map_or(key, |(_, ours)| ours);
    let here = |name: &String| child(parent, name);
    let nearest = known.iter().find(|name| *name == ours).map(here).or_else(|| {
        let mut all = Vec::new();
        paths(defaults, "", &mut all);
        let elsewhere = all.into_iter().find(|path| path.rsplit('.').next() == Some(ours));
        elsewhere.or_else(|| nearest(key, &known).map(here))
    });
    ConfigError::UnknownKey { origin: layers.origin(path), key: path.into(), nearest, known }
}

/// Collects every key path of a table; a table precedes its entries.
fn paths(table: &Table, prefix: &str, out: &mut Vec<String>) {
    for (key, value) in table {
        let path = child(prefix, key);
        out.push(path.clone());
        if let Value::Table(inner) = value {
            paths(inner, &path, out);
        }
    }
}

/// Returns the known name with the minimum edit distance, if at most a third of its letters differ.
pub(crate) fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a String> {
    let far = |other: &str| strsim::damerau_levenshtein(name, other);
    known
        .iter()
        .filter(|other| far(other) * 3 <= name.chars().count().max(other.chars().count()))
        .min_by_key(|other| far(other))
}

fn problem(message: &str, names: &[String], value: Option<&Value>) -> String {
    let found = value.map_or_else(|| "missing".into(), shown);
    if message.starts_with("unknown variant") {
        let (given, known) = names.split_first().map_or(("", names), |(given, known)| (given.as_str(), known));
        let meant = nearest(given, known).map_or_else(String::new, |name| format!(" (did you mean \"{name}\"?)"));
        let known: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
        return format!("is {found}{meant}; expected {}", known.join(" or "));
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("is missing the key {field}; add it");
    }
    match message.split_once(", expected ") {
        Some((_, expected)) => format!("is {found}; expected {}", plain(expected)),
        None => format!("is {found}; {message}"),
    }
}

/// Translates serde's type names into plain English.
fn plain(expected: &str) -> String {
    match expected {
        "f64" | "f32" => "a number".into(),
        "usize" | "u64" | "u32" | "u8" => "a whole number, 0 or more".into(),
        "i64" | "i32" => "a whole number".into(),
        "a boolean" => "true or false".into(),
        "a string" | "string" => "a string in quotes".into(),
        "path string" => "a path in quotes".into(),
        "a sequence" => "a list, [a, b, …]".into(),
        "string only" | "string or table" => "one of the allowed names, in quotes".into(),
        other if other.starts_with("struct ") => "a table".into(),
        other if other.starts_with("enum ") => "one of the allowed names, in quotes".into(),
        other => match other.strip_prefix("an array of length ") {
            Some(length) => format!("a list of {length}"),
            None => other.into(),
        },
    }
}

/// Returns the names that serde puts in backticks: the rejected name first, then the known ones.
fn quoted(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

fn written(path: &Path) -> String {
    path.iter().fold(String::new(), |at, segment| match segment {
        Segment::Seq { index } => element(&at, *index),
        Segment::Map { key } => child(&at, key),
        Segment::Enum { .. } | Segment::Unknown => at,
    })
}
