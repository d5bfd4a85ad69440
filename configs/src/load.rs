//! From files and overrides to a checked value.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use crate::error::{ConfigError, Origin};
use crate::keys;
use crate::merge::Layers;
use crate::overrides;
use crate::presets::{self, PRESETS};
use crate::run::RunConfig;
use crate::source::Source;

/// Loads the config in `path`, with what it extends, then the overrides `a.b.c=value` in order, and checks it.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn load<T: RunConfig>(path: &Path, overrides: &[String]) -> Result<T, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), origin: None, source })?;
    parse(path, &text, overrides)
}

/// As [`load`], with the text of the file at hand; `path` names it in errors and is where `extends` starts from.
///
/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn parse<T: RunConfig>(path: impl AsRef<Path>, text: &str, overrides: &[String]) -> Result<T, ConfigError> {
    parse_over(&T::default(), path.as_ref(), text, overrides)
}

/// As [`parse`], with defaults other than the type's own.
pub(crate) fn parse_over<T: RunConfig>(
    defaults: &T,
    path: &Path,
    text: &str,
    overrides: &[String],
) -> Result<T, ConfigError> {
    // Defaults are a layer of their own because a nested table's defaults depend on the config it stands in: the
    // learning rate of SFT is not that of RL.
    let defaults = Table::try_from(defaults)?;
    let mut layers = Layers::new(defaults.clone());
    for source in chain(path, text)?.iter().rev() {
        layers.overlay(source);
    }
    for text in overrides {
        overrides::apply(&mut layers, text)?;
    }
    let config: T = serde_path_to_error::deserialize(toml::Value::Table(layers.table.clone()))
        .map_err(|refused| keys::explain(&refused, &layers, &defaults))?;
    match config.defect() {
        None => Ok(config),
        Some(defect) => {
            let origin = layers.origin(&defect.key);
            // A default repeated as advice would be no advice.
            let example = keys::example(&defaults, &defect.key, &origin).filter(|_| layers.mentions(&defect.key));
            Err(defect.into_error(origin, example))
        }
    }
}

/// The file and what it extends, the file first.
fn chain(path: &Path, text: &str) -> Result<Vec<Source>, ConfigError> {
    let mut sources = vec![Source::parse(path, text)?];
    let mut seen = vec![same_file(path)];
    while let Some(last) = sources.last()
        && let Some(extends) = &last.extends
    {
        let origin = last.origin(keys::EXTENDS);
        if let Some(name) = extends.to_str().and_then(|text| text.strip_prefix(presets::PREFIX)) {
            let text = presets::preset(name).ok_or_else(|| no_preset(origin, name))?;
            sources.push(Source::parse(&extends.clone(), text)?);
            continue;
        }
        let next = last.path.parent().unwrap_or(Path::new("")).join(extends);
        if seen.contains(&same_file(&next)) {
            let chain = sources.iter().map(|source| source.path.clone()).chain([next]).collect();
            return Err(ConfigError::Cycle { origin, chain });
        }
        let text = fs::read_to_string(&next).map_err(|source| not_read(&next, origin, source))?;
        seen.push(same_file(&next));
        sources.push(Source::parse(&next, &text)?);
    }
    Ok(sources)
}

fn no_preset(origin: Origin, name: &str) -> ConfigError {
    let known: Vec<String> = PRESETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let meant = keys::nearest(name, &known).map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"));
    ConfigError::Value {
        origin,
        key: keys::EXTENDS.into(),
        problem: format!("names the preset `{name}`, which is not built in{meant}; known: {}", known.join(", ")),
        example: None,
    }
}

fn not_read(path: &Path, origin: Origin, source: std::io::Error) -> ConfigError {
    ConfigError::Read { path: path.into(), origin: Some(origin), source }
}

/// One name for a file, however it is reached. A file that does not exist keeps its own.
fn same_file(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.into())
}
