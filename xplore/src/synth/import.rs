//! The step `import`: from raw files to histories.

use std::path::{Path, PathBuf};
use std::time::Instant;

use configs::synth::ImportConfig;
use configs::{SynthConfig, SynthStep};
use data_synth::import::{DataCard, ImportError, import};

use super::{StepContext, time_left};
use crate::error::Error;
use crate::reporter::Reporter;
use crate::runtime;

/// Returns the files that the step reads.
pub fn inputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let config = &context.config.import;
    let items = Some(&config.columns.items).filter(|path| !path.as_os_str().is_empty());
    config.input.iter().chain(items).cloned().collect()
}

/// Returns the files that the step writes.
pub fn outputs(context: &StepContext<'_>) -> Vec<PathBuf> {
    let folder = context.of(SynthStep::Import);
    ["train.jsonl", "test.jsonl", "card.json"].map(|file| folder.join(file)).into()
}

/// Runs the step, and returns the counts in one line.
///
/// # Errors
/// Same as [`histories`].
pub fn run(context: &StepContext<'_>) -> Result<String, Error> {
    let folder = context.of(SynthStep::Import);
    Ok(summary(&histories(&context.config.import, context.config.seed, &folder, context.reporter)?))
}

/// Reads raw files, and writes the histories of the training and test users to train.jsonl and test.jsonl in `folder`, with a card of
/// their counts. Files on the hub are downloaded.
///
/// # Errors
/// Returns an error if the format is unknown, a file cannot be downloaded, read or written, a row is malformed, no user remains, or a
/// stop was requested.
pub fn histories(config: &ImportConfig, seed: u64, folder: &Path, reporter: &dyn Reporter) -> Result<DataCard, Error> {
    let settings = hub::HubSettings::from_environment();
    let input = config.input.iter().map(|path| hub::data(path, &settings)).collect::<Result<_, _>>()?;
    let mut columns = config.columns.clone();
    columns.items = hub::data(&columns.items, &settings)?;
    let config = ImportConfig { input, columns, ..config.clone() };
    let (mut task, begun) = (reporter.task("import"), Instant::now());
    let mut progress = |read: u64, all: u64| {
        task.at(read, all, &format!("bytes{}", time_left(begun.elapsed(), read, all)));
        runtime::stop_requested()
    };
    let card = import(&config, seed, folder, &mut progress)?;
    task.done(&format!("{} items", card.items));
    Ok(card)
}

/// Returns the counts of an import in one line.
pub fn summary(card: &DataCard) -> String {
    let bad: u64 = card.bad_rows.values().sum();
    let mut text = format!(
        "{} training users with {} interactions, {} test users with {}",
        card.users.train, card.interactions.train, card.users.test, card.interactions.test
    );
    if !card.dropped.is_empty() {
        text += "; card.json has what was left out, by reason";
    }
    if bad > 0 {
        text += &format!("; malformed rows skipped: {bad}");
    }
    text
}

/// Loads the configuration of a pipeline as [`configs::load`] does, and checks that its format exists and uses the keys that are set.
///
/// # Errors
/// Returns an error of kind [`crate::ErrorKind::Config`] for the first problem found.
pub fn load(path: &Path, overrides: &[String]) -> Result<SynthConfig, Error> {
    let config: SynthConfig = configs::load(path, overrides)?;
    // Pipelines that start at a later step name no format.
    if config.import.format.is_empty() {
        return Ok(config);
    }
    match data_synth::import::check(&config.import) {
        Ok(_) => Ok(config),
        Err(error) => {
            let key = match error {
                ImportError::Unused { key, .. } => format!("import.{key}"),
                _ => "import.format".into(),
            };
            Err(configs::refuse::<SynthConfig>(path, overrides, &key, format!("cannot be used: {error}")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_format_and_a_key_that_it_does_not_use_are_named_with_their_lines() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("synth.toml");
        let refused = |text: &str, set: &[String]| {
            std::fs::write(&file, text).unwrap();
            let error = load(&file, set).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Config);
            error.to_string()
        };
        let text = |format: &str| {
            format!("steps = ['import']\n[import]\nformat = '{format}'\ninput = ['raw']\norder = 'time'\n")
        };
        let error = refused(&text("mindd"), &[]);
        assert!(error.contains("synth.toml:3: `import.format` ") && error.contains("did you mean `mind`?"), "{error}");
        let error = refused(&text("alignx"), &[]);
        assert!(error.contains("synth.toml:5: `import.order` ") && error.contains("does not use it"), "{error}");
        let error = refused(&text("mind"), &["import.rating_threshold=3".into()]);
        assert!(error.starts_with("--set import.rating_threshold=3: `import.rating_threshold` "), "{error}");
        std::fs::write(&file, text("mind")).unwrap();
        assert_eq!(load(&file, &[]).unwrap().import.format, "mind");
        std::fs::write(&file, "steps = ['prune']\n").unwrap();
        assert_eq!(load(&file, &[]).unwrap().steps, [SynthStep::Prune]);
    }
}
