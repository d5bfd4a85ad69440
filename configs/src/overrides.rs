//! Command-line overrides: `a.b.c=value`.

use toml::{Table, Value};

use crate::error::ConfigError;
use crate::key_path::{child, element};
use crate::keys;
use crate::merge::Layers;

/// Applies one override. The value is parsed as TOML (`3`, `1e-5`, `true`, `[0.9, 0.95]`, `"text"`), or taken as plain text if it
/// is not valid TOML. A number between dots is the index of a list element.
pub(crate) fn apply(layers: &mut Layers, text: &str) -> Result<(), ConfigError> {
    let wrong = |problem: String| ConfigError::Override { text: text.into(), problem };
    let Some((key, value)) = text.split_once('=') else {
        return Err(wrong("missing `=`; write key=value, for example optimizer.lr=1e-5".into()));
    };
    let segments: Vec<&str> = key.trim().split('.').map(str::trim).collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(wrong("empty key; write key=value, for example optimizer.lr=1e-5".into()));
    }
    if segments == [keys::EXTENDS] {
        return Err(wrong("`extends` is valid only in config files; pass that file with --config".into()));
    }
    let path = set(&mut layers.table, &segments, parse_value(value.trim())).map_err(wrong)?;
    layers.overridden(&path, text);
    Ok(())
}

/// Parses the value of an override as TOML, or takes it as plain text.
pub(crate) fn parse_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed.map(|mut table| (table.remove("value"), table.is_empty())) {
        Ok((Some(value), true)) => value,
        _ => Value::String(text.into()),
    }
}

/// Sets `value` at the path and returns the path in the form that errors use.
fn set(table: &mut Table, segments: &[&str], value: Value) -> Result<String, String> {
    let [first, rest @ ..] = segments else { return Err("no key".into()) };
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
            let path = child(&path, first);
            let inner = table.entry((*first).to_string()).or_insert_with(|| Value::Table(Table::new()));
            set_below(inner, path, rest, value)
        }
        Value::Array(items) => {
            let count = items.len();
            match first.parse::<usize>().ok().and_then(|index| Some((index, items.get_mut(index)?))) {
                Some((index, item)) => set_below(item, element(&path, index), rest, value),
                None => Err(format!(
                    "`{path}` is a list of {count}, and `{first}` is not a valid index; use an index below {count}, \
                     starting at 0, or set the whole list with {path}=[…]"
                )),
            }
        }
        other => Err(format!("`{path}` is {}, not a table; set it with {path}=value", keys::shown(other))),
    }
}
