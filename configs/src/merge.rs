//! Layers of configuration, merged, with the origin of every key kept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::{Table, Value};

use crate::error::Origin;
use crate::keys;
use crate::source::Source;

/// The merged values and where each came from.
pub(crate) struct Layers {
    /// The values.
    pub table: Table,
    origins: BTreeMap<String, Origin>,
    file: Option<PathBuf>,
}

impl Layers {
    /// Starts from the defaults of a type, which have no origin.
    pub fn new(defaults: Table) -> Self {
        Self { table: defaults, origins: BTreeMap::new(), file: None }
    }

    /// Puts a file on top. Tables are merged key by key; any other value replaces what was there.
    pub fn overlay(&mut self, source: &Source) {
        let mut replaced = Vec::new();
        merge(&mut self.table, &source.table, "", &mut replaced);
        for key in replaced {
            self.forget(&key);
        }
        self.origins.extend(source.lines.keys().map(|key| (key.clone(), source.origin(key))));
        self.file = Some(source.path.clone());
    }

    /// Notes that the override `text` has set `key`.
    pub fn overridden(&mut self, key: &str, text: &str) {
        self.forget(key);
        self.origins.insert(key.into(), Origin::Override(text.into()));
    }

    /// Where `key` got its value. A key that nothing mentions belongs to its nearest table that is mentioned, or else
    /// to the last file.
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

    /// Whether a file or an override mentions `key`.
    pub fn mentions(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// Drops the origins of `key` and of everything below it.
    fn forget(&mut self, key: &str) {
        self.origins.retain(|path, _| match path.strip_prefix(key) {
            Some(rest) => !(rest.is_empty() || rest.starts_with(['.', '['])),
            None => true,
        });
    }
}

fn merge(base: &mut Table, over: &Table, prefix: &str, replaced: &mut Vec<String>) {
    for (key, value) in over {
        let path = keys::child(prefix, key);
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over, &path, replaced),
            _ => {
                base.insert(key.clone(), value.clone());
                replaced.push(path);
            }
        }
    }
}
