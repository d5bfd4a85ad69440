//! Merging of configuration layers, with the origin of every key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::error::Origin;
use crate::key_path::child;
use crate::source::ParsedFile;

/// The merged values and the origin of each.
pub(crate) struct Layers {
    /// The merged values.
    pub table: Table,
    origins: BTreeMap<String, Origin>,
    file: Option<PathBuf>,
}

impl Layers {
    /// Returns layers that hold only the defaults of a type, which have no origin.
    pub fn new(defaults: Table) -> Self {
        Self { table: defaults, origins: BTreeMap::new(), file: None }
    }

    /// Merges a file on top. Tables are merged key by key; any other value replaces the previous one.
    pub fn overlay(&mut self, source: &ParsedFile) {
        let mut replaced = Vec::new();
        merge(&mut self.table, &source.table, "", &mut replaced);
        for key in replaced {
            self.forget(&key);
        }
        self.origins.extend(source.lines.keys().map(|key| (key.clone(), source.origin(key))));
        self.file = Some(source.path.clone());
    }

    /// Records that the override `text` set `key`.
    pub fn overridden(&mut self, key: &str, text: &str) {
        self.forget(key);
        self.origins.insert(key.into(), Origin::Override(text.into()));
    }

    /// Returns the origin of the value of `key`. A key that no source contains has the origin of its nearest enclosing table that a
    /// source contains, or else of the last file.
    pub fn origin(&self, key: &str) -> Origin {
        let mut at = key;
        loop {
            if let Some(origin) = self.origins.get(at) {
                return origin.clone();
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = &at[..end],
                None => break,
            }
        }
        self.file.clone().map_or(Origin::Code, |path| Origin::File { path, line: None })
    }

    /// Returns whether a file or an override contains `key`.
    pub fn mentions(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Removes the origins of `key` and of everything below it.
    fn forget(&mut self, key: &str) {
        self.origins.retain(|path, _| match path.strip_prefix(key) {
            Some(rest) => !(rest.is_empty() || rest.starts_with(['.', '['])),
            None => true,
        });
    }
}

fn merge(base: &mut Table, over: &Table, prefix: &str, replaced: &mut Vec<String>) {
    for (key, value) in over {
        let path = child(prefix, key);
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over, &path, replaced),
            _ => {
                base.insert(key.clone(), value.clone());
                replaced.push(path);
            }
        }
    }
}
