//! A TOML file: its values, and the line of each key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Table;
use toml::de::{DeTable, DeValue};

use crate::error::{ConfigError, Origin};
use crate::key_path::{child, element};
use crate::keys;

/// A parsed file.
pub(crate) struct ParsedFile {
    /// Path of the file, as the user gave it.
    pub path: PathBuf,
    /// Values of the file, without `extends`.
    pub table: Table,
    /// Line (from 1) of every key path and list element in the file.
    pub lines: BTreeMap<String, usize>,
    /// The file that this one extends, as written.
    pub extends: Option<PathBuf>,
}

impl ParsedFile {
    /// Parses `text`, the content of `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let syntax = |e: toml::de::Error| {
            let (line, column) = position(text, e.span().map_or(0, |span| span.start));
            ConfigError::Syntax { path: path.into(), line, column, message: e.message().replace('\n', ", ") }
        };
        let spanned = DeTable::parse(text).map_err(syntax)?;
        let mut table: Table = text.parse().map_err(syntax)?;
        let mut lines = BTreeMap::new();
        note_table(spanned.get_ref(), "", text, &mut lines);
        let extends = match table.remove(keys::EXTENDS) {
            None => None,
            Some(toml::Value::String(file)) => Some(PathBuf::from(file)),
            Some(other) => {
                return Err(ConfigError::Value {
                    origin: Origin::File { path: path.into(), line: lines.get(keys::EXTENDS).copied() },
                    key: keys::EXTENDS.into(),
                    problem: format!("is {}; expected the path of another config, in quotes", keys::shown(&other)),
                    example: Some("extends = \"base.toml\"".into()),
                });
            }
        };
        Ok(Self { path: path.into(), table, lines, extends })
    }

    /// Returns the location of the key in this file.
    pub fn origin(&self, key: &str) -> Origin {
        Origin::File { path: self.path.clone(), line: self.lines.get(key).copied() }
    }
}

fn note_table(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = child(prefix, key.get_ref());
        lines.insert(path.clone(), position(text, key.span().start).0);
        note_value(value.get_ref(), &path, text, lines);
    }
}

fn note_value(value: &DeValue<'_>, path: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    match value {
        DeValue::Table(table) => note_table(table, path, text, lines),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = element(path, index);
                lines.insert(path.clone(), position(text, item.span().start).0);
                note_value(item.get_ref(), &path, text, lines);
            }
        }
        _ => {}
    }
}

/// Returns the line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
    (before.matches('\n').count() + 1, column + 1)
}
