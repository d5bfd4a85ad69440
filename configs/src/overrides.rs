//! Command-line overrides: `a.b.c=value`.

use toml::{Table, Value};

use crate::error::ConfigError;
use crate::keys;
use crate::merge::Layers;

/// Applies one override. The value is parsed as TOML (`3`, `1e-5`, `true`, `[0.9, 0.95]`, `"text"`), or taken as plain text if it
/// is not valid TOML. A number between dots is the index of a list element.
pub(crate) fn apply(layers: &mut Layers, text: &str) -> Result<(), ConfigError> {
    let wrong = |problem: String| ConfigError::Override { text: text.into(), problem };
    let Some((key, value)) = text.split_once('=') else {
        return Err(wrong("has no `=`; write it as key=value, for example optimizer.lr=1e-5".into()));
    };
    let segments: Vec<&str> = key.trim().split('.').map(str::trim).collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(wrong("has an empty key; write it as key=value, for example optimizer.lr=1e-5".into()));
    }
    if segments == [keys::EXTENDS] {
        return Err(wrong("`extends` works in files only; name that file with --config".into()));
    }
    let path = set(&mut layers.table, &segments, parse_value(value.trim())).map_err(wrong)?;
    layers.overridden(&path, text);
    Ok(())
}

fn parse_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed.map(|mut table| (table.remove("value"), table.is_empty())) {
        Ok((Some(value), true)) => value,
        _ => Value::String(text.into()),
    }
}

/// Sets `value` at the path and returns the path in the form that errors use.
fn set(table: &mut Table, segments: &[&str], value: Value) -> Result<String, String> {
    let [first, rest @ ..] = segments else { return Err("has no key".into()) };
    let path = (*first).to_string();
    if rest.is_empty() {
        table.insert(path.clone(), value);
        return Ok(path);
    }
    let inner = table.entry(path.clone()).or_insert_with(|| Value::Table(Table::new()));
    set_below(inner, path, rest, value)
}

fn set_below(at: &mut Value, path: String, segments: &[&str], value: Value) -> Result<String, String> {
    let [first, rest @ ..] = segments else {
        *at = value;
        return Ok(path);
    };
    match at {
        Value::Table(table) => {
            let path = keys::child(&path, first);
            let inner = table.entry((*first).to_string()).or_insert_with(|| Value::Table(Table::new()));
            set_below(inner, path, rest, value)
        }
        Value::Array(items) => {
            let count = items.len();
            match first.parse::<usize>().ok().and_then(|index| Some((index, items.get_mut(index)?))) {
                Some((index, item)) => set_below(item, keys::element(&path, index), rest, value),
                None => Err(format!(
                    "`{path}` is a list of {count}, and `{first}` is no index of it; use a number below {count}, counted \
                     from 0, or give the whole list as {path}=[…]"
                )),
            }
        }
        other => Err(format!("`{path}` is {}, which has no keys below it; set it as {path}=value", keys::shown(other))),
    }
}
