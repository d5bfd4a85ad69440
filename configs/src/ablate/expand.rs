//! Expansion of factors and named variants into a list of variants.

use std::collections::HashSet;

use toml::{Table, Value};

use super::{AblateConfig, Design, START};
use crate::check::{CheckResult, Defect, ensure};
use crate::key_path::{child, element};
use crate::overrides::parse_value;

/// Keys that the ablation itself sets, with what to use instead.
const FIXED: [(&str, &str); 5] = [
    ("seed", "`seeds` of the ablation"),
    ("train.steps", "`steps` of the ablation, which is the same for all variants"),
    ("train.epochs", "`steps` of the ablation, which is the same for all variants"),
    ("name", "`name` of the variant"),
    ("out", "`out` of the ablation"),
];

/// Maximum number of variants of a grid.
const MOST: usize = 1000;

/// A variant: overrides of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name of the variant in the report.
    pub name: String,
    /// Overrides of the base, each `key=value`.
    pub set: Vec<String>,
    /// The key of the ablation that gives the variant.
    pub key: String,
}

/// A key of the base and its levels, as overrides.
struct Factor {
    key: String,
    levels: Vec<String>,
}

pub(super) fn variants(config: &AblateConfig) -> Result<Vec<Variant>, Defect> {
    let variants = match (config.factors.is_empty(), config.variants.is_empty()) {
        (true, true) => return Err(Defect::new("variants", "is empty; expected [[variants]] or [factors]")),
        (false, false) => return Err(Defect::new("variants", "is set beside [factors]; remove one of the two")),
        (true, false) => named(config)?,
        (false, true) => {
            let factors = factors(&config.factors)?;
            match config.design {
                Design::Grid => grid(&factors)?,
                Design::OneAtATime => one_at_a_time(&factors),
            }
        }
    };
    ensure(
        config.variants.is_empty() || config.design == Design::Grid,
        "design",
        "\"one_at_a_time\"",
        "[factors]; named variants are run as they are",
    )?;
    let mut seen = HashSet::new();
    for variant in &variants {
        let Variant { name, key, .. } = variant;
        ensure(
            name != START,
            key,
            format!("the variant \"{START}\""),
            "another name: the model before the training has it",
        )?;
        ensure(seen.insert(name), key, format!("the variant \"{name}\" again"), "each name once")?;
    }
    Ok(variants)
}

fn named(config: &AblateConfig) -> Result<Vec<Variant>, Defect> {
    let one = |(index, given): (usize, &super::VariantConfig)| {
        let key = element("variants", index);
        let name = match (given.name.as_str(), given.set.as_slice()) {
            ("", []) => "base".to_owned(),
            ("", set) => set.join(", "),
            (name, _) => name.to_owned(),
        };
        for (at, text) in given.set.iter().enumerate() {
            let at = element(&child(&key, "set"), at);
            let of = format!("\"{text}\" in the variant \"{name}\"");
            let Some((changed, _)) = text.split_once('=') else {
                return Err(Defect::new(&at, format!("is {of}; expected key=value")));
            };
            changeable(&at, changed.trim(), &of)?;
        }
        Ok(Variant { name, set: given.set.clone(), key })
    };
    config.variants.iter().enumerate().map(one).collect()
}

/// Checks that a variant may change `changed`.
fn changeable(key: &str, changed: &str, found: &str) -> CheckResult {
    match FIXED.iter().find(|(fixed, _)| *fixed == changed) {
        None => Ok(()),
        Some((_, instead)) => Err(Defect::new(key, format!("is {found}; expected another key: use {instead}"))),
    }
}

/// Returns the factors of a table. Keys may be quoted (`"reward.carry_discount" = […]`) or not, which gives nested tables.
fn factors(table: &Table) -> Result<Vec<Factor>, Defect> {
    let mut out = Vec::new();
    collect(table, "", &mut out)?;
    let mut seen = HashSet::new();
    for Factor { key, .. } in &out {
        ensure(seen.insert(key), key, "two factors: a quoted key and nested tables", "each key once")?;
    }
    Ok(out)
}

fn collect(table: &Table, prefix: &str, out: &mut Vec<Factor>) -> CheckResult {
    for (key, value) in table {
        let path = child(prefix, key);
        let at = child("factors", &path);
        match value {
            Value::Table(inner) => collect(inner, &path, out)?,
            Value::Array(values) if !values.is_empty() => {
                changeable(&at, &path, &format!("a factor \"{path}\""))?;
                let levels: Vec<String> = values.iter().map(|value| level(&path, value)).collect();
                let distinct: HashSet<&String> = levels.iter().collect();
                ensure(distinct.len() == levels.len(), &at, Value::Array(values.clone()), "each level once")?;
                out.push(Factor { key: at, levels });
            }
            other => {
                let found = crate::keys::shown(other);
                return Err(Defect::new(&at, format!("is {found}; expected a list of levels, such as [0.9, 0.0]")));
            }
        }
    }
    Ok(())
}

/// Returns the override of a level. Text that is read back as text has no quotes.
fn level(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.trim() == text && parse_value(text) == *value => format!("{key}={text}"),
        other => format!("{key}={other}"),
    }
}

fn grid(factors: &[Factor]) -> Result<Vec<Variant>, Defect> {
    let count = factors.iter().try_fold(1, |count: usize, factor| count.checked_mul(factor.levels.len()));
    let found =
        count.map_or_else(|| "a grid of too many variants".into(), |count| format!("a grid of {count} variants"));
    let expected = format!("at most {MOST}: fewer levels, or design = \"one_at_a_time\"");
    ensure(count.is_some_and(|count| count <= MOST), "factors", found, &expected)?;
    let mut sets: Vec<Vec<String>> = vec![Vec::new()];
    for factor in factors {
        let extended = |set: &Vec<String>, level: &String| [set.as_slice(), std::slice::from_ref(level)].concat();
        sets = sets.iter().flat_map(|set| factor.levels.iter().map(move |level| extended(set, level))).collect();
    }
    Ok(sets.into_iter().map(|set| Variant { name: set.join(", "), set, key: "factors".into() }).collect())
}

fn one_at_a_time(factors: &[Factor]) -> Vec<Variant> {
    let first: Vec<String> = factors.iter().map(|factor| factor.levels[0].clone()).collect();
    let mut variants = vec![Variant { name: "baseline".into(), set: first.clone(), key: "factors".into() }];
    for (index, factor) in factors.iter().enumerate() {
        for level in &factor.levels[1..] {
            let mut set = first.clone();
            set[index].clone_from(level);
            variants.push(Variant { name: level.clone(), set, key: factor.key.clone() });
        }
    }
    variants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Vec<(String, Vec<String>)> {
        let text = format!("base = 'rl.toml'\nsteps = 2\neval = 'eval.toml'\n{text}");
        let config: AblateConfig = crate::parse("a.toml", &text, &[]).unwrap_or_else(|e| panic!("{e}"));
        config.expanded().unwrap().into_iter().map(|variant| (variant.name, variant.set)).collect()
    }

    fn names(text: &str) -> Vec<String> {
        expanded(text).into_iter().map(|(name, _)| name).collect()
    }

    const FACTORS: &str = "[factors]\n'reward.carry_discount' = [0.9, 0.0]\nalgorithm.advantage = ['group', '1']\n";

    #[test]
    fn a_grid_has_every_combination_in_the_order_of_the_file() {
        let expected = [
            "reward.carry_discount=0.9, algorithm.advantage=group",
            // Quoted, because the plain text is a number.
            "reward.carry_discount=0.9, algorithm.advantage=\"1\"",
            "reward.carry_discount=0.0, algorithm.advantage=group",
            "reward.carry_discount=0.0, algorithm.advantage=\"1\"",
        ];
        assert_eq!(names(FACTORS), expected);
        let (_, set) = &expanded(FACTORS)[2];
        assert_eq!(set[..], ["reward.carry_discount=0.0", "algorithm.advantage=group"]);
    }

    #[test]
    fn one_at_a_time_changes_one_factor_of_the_baseline() {
        let found = expanded(&format!("design = 'one_at_a_time'\n{FACTORS}train.drop_last = [false, true]\n"));
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["baseline", "reward.carry_discount=0.0", "algorithm.advantage=\"1\"", "train.drop_last=true"]
        );
        assert_eq!(found[3].1, ["reward.carry_discount=0.9", "algorithm.advantage=group", "train.drop_last=true"]);
    }

    #[test]
    fn variants_are_named_by_their_overrides_unless_named() {
        let text = "[[variants]]\n[[variants]]\nset = ['a=1', 'b=2']\n[[variants]]\nname = 'c'\nset = ['c=3']\n";
        assert_eq!(names(text), ["base", "a=1, b=2", "c"]);
    }

    #[test]
    fn levels_may_be_lists_of_tables() {
        let text = "[factors]\n'reward.terms' = [[{ name = 'judge' }], [{ name = 'accuracy', weight = 0.5 }]]\n";
        let found = expanded(text);
        assert_eq!(found.len(), 2);
        let (_, value) = found[1].1[0].split_once('=').unwrap();
        let terms = parse_value(value);
        assert_eq!(terms[0]["name"].as_str(), Some("accuracy"));
        assert_eq!(terms[0]["weight"].as_float(), Some(0.5));
    }
}
