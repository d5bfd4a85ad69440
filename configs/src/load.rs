//! Loading of files and overrides into a validated config.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::error::{ConfigError, Origin};
use crate::keys;
use crate::merge::Layers;
use crate::overrides;
use crate::presets::{self, PRESETS};
use crate::run::RunConfig;
use crate::source::ParsedFile;

/// Loads the config at `path` with the files that it extends, applies the overrides `a.b.c=value` in order, and validates the
/// result.
///
/// # Errors
/// [`ConfigError`] for the first problem found.
pub fn load<T: RunConfig>(path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), origin: None, source })?;
    parse(path, &text, overrides)
}

/// Parses a config from `text`, otherwise like [`load`]. Errors report `path`, and `extends` is relative to it.
///
/// # Errors
/// [`ConfigError`] for the first problem found.
pub fn parse<T: RunConfig>(path: impl AsRef<Path>, text: &str, overrides: &[String]) -> Result<T, ConfigError> {
    parse_over(&T::default(), path.as_ref(), text, overrides)
}

/// Returns the error of a key of the config at `path` whose value a check after loading refuses; it names file and line of the key.
/// `problem` follows the key.
pub fn refuse<T: RunConfig>(path: &Path, overrides: &[String], key: &str, problem: impl Into<String>) -> ConfigError {
    let read = || {
        let text = fs::read_to_string(path).ok()?;
        layers(Table::try_from(T::default()).ok()?, path, &text, overrides).ok()
    };
    let origin = read().map_or(Origin::Code, |layers| layers.origin(key));
    ConfigError::Value { origin, key: key.into(), problem: problem.into(), example: None }
}

/// Parses a config like [`parse`], with the given defaults in place of the type's own.
pub(crate) fn parse_over<T: RunConfig>(
    defaults: &T,
    path: &Path,
    text: &str,
    overrides: &[String],
) -> Result<T, ConfigError> {
    // Defaults are a separate layer because the defaults of a nested table depend on the config that contains it: the learning rate
    // of SFT is not that of RL.
    let defaults = Table::try_from(defaults)?;
    let layers = layers(defaults.clone(), path, text, overrides)?;
    let config: T = serde_path_to_error::deserialize(toml::Value::Table(layers.table.clone()))
        .map_err(|refused| keys::explain(&refused, &layers, &defaults))?;
    match config.defect() {
        None => Ok(config),
        Some(defect) => {
            let origin = layers.origin(&defect.key);
            // Suggesting the default is useless if the default itself is invalid.
            let example = keys::example(&defaults, &defect.key, &origin).filter(|_| layers.mentions(&defect.key));
            Err(defect.into_error(origin, example))
        }
    }
}

/// Returns the defaults with the files and the overrides on top.
fn layers(defaults: Table, path: &Path, text: &str, overrides: &[String]) -> Result<Layers, ConfigError> {
    let mut layers = Layers::new(defaults);
    for source in chain(path, text)?.iter().rev() {
        layers.overlay(source);
    }
    for text in overrides {
        overrides::apply(&mut layers, text)?;
    }
    Ok(layers)
}

/// Returns the file and the files that it extends, the file first.
fn chain(path: &Path, text: &str) -> Result<Vec<ParsedFile>, ConfigError> {
    let mut sources = vec![ParsedFile::parse(path, text)?];
    let mut seen = vec![same_file(path)];
    while let Some(last) = sources.last()
        && let Some(extends) = &last.extends
    {
        let origin = last.origin(keys::EXTENDS);
        if let Some(name) = extends.to_str().and_then(|text| text.strip_prefix(presets::PREFIX)) {
            let text = presets::preset(name).ok_or_else(|| no_preset(origin, name))?;
            sources.push(ParsedFile::parse(&extends.clone(), text)?);
            continue;
        }
        let next = last.path.parent().unwrap_or(Path::new("")).join(extends);
        if seen.contains(&same_file(&next)) {
            let chain = sources.iter().map(|source| source.path.clone()).chain([next]).collect();
            return Err(ConfigError::Cycle { origin, chain });
        }
        let text = fs::read_to_string(&next).map_err(|source| not_read(&next, origin, source))?;
        seen.push(same_file(&next));
        sources.push(ParsedFile::parse(&next, &text)?);
    }
    Ok(sources)
}

fn no_preset(origin: Origin, name: &str) -> ConfigError {
    let known: Vec<String> = PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let meant = keys::nearest(name, &known).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"));
    ConfigError::Value {
        origin,
        key: keys::EXTENDS.into(),
        problem: format!("names an unknown preset `{name}`{meant}; known presets: {}", known.join(", ")),
        example: None,
    }
}

fn not_read(path: &Path, origin: Origin, source: std::io::Error) -> ConfigError {
    ConfigError::Read { path: path.into(), origin: Some(origin), source }
}

/// Returns a canonical path, so that one file has one name. A path that does not exist is returned unchanged.
fn same_file(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}
