//! Loads the rows of a configuration, ready for training.

use std::path::Path;
use std::sync::Arc;

use chat::tokenizer::Tokenizer;
use configs::sft::{SftData, SftSet};

use crate::tokenized_cache::LoadStage;
use crate::{CorpusError, Mixture, Report, Rules, TokenFile, source};

/// Training rows and validation rows.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The training rows.
    pub train: Mixture,
    /// The validation rows, in the order of the file; `None` if the configuration names none.
    pub validation: Option<Mixture>,
    /// The counts of kept and skipped rows.
    pub report: CorpusReport,
}

/// The counts of kept and skipped rows of each set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusReport {
    /// Each training set with its name, rows held out for validation included.
    pub sets: Vec<(String, Report)>,
    /// The validation file, if there is one.
    pub validation: Option<(String, Report)>,
}

/// Returns the training sets with their weights: those of `mix`, or the single set of `train`.
pub(crate) fn sets(data: &SftData) -> Vec<SftSet> {
    if data.mix.is_empty() { vec![SftSet { path: data.train.clone(), weight: 0.0 }] } else { data.mix.clone() }
}

/// Locates the rows of `data`, downloads them if necessary, and tokenizes them into the folder `cache` unless they are
/// cached. `progress` receives the current stage, the bytes done, and the total bytes.
///
/// # Errors
/// Returns [`CorpusError`] if a file of the configuration, or one of its rows, is invalid.
pub fn open(
    data: &SftData,
    tokenizer: &Tokenizer,
    cache: &Path,
    seed: u64,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<Corpus, CorpusError> {
    let mut one = |path: &Path| set(path, data.into(), tokenizer, cache, progress);
    let sets = sets(data);
    let files = sets.iter().map(|set| one(&set.path)).collect::<Result<Vec<_>, _>>()?;
    let weights: Vec<f64> = sets.iter().map(|set| set.weight).collect();
    let mut report = CorpusReport {
        sets: sets.iter().zip(&files).map(|(set, file)| (set.path.display().to_string(), *file.report())).collect(),
        validation: None,
    };
    let (train, validation) = if data.validation_share > 0.0 {
        let (train, held_out) = Mixture::split(&files, data.validation_share, &weights, data.shuffle, seed)?;
        (train, Some(held_out))
    } else {
        let validation = if data.validation.as_os_str().is_empty() { None } else { Some(one(&data.validation)?) };
        report.validation = validation.as_ref().map(|file| (data.validation.display().to_string(), *file.report()));
        let validation = validation.map(|file| Mixture::new(vec![file], &[0.0], false, seed));
        (Mixture::new(files, &weights, data.shuffle, seed), validation)
    };
    Ok(Corpus { train, validation, report })
}

fn set(
    path: &Path,
    rules: Rules,
    tokenizer: &Tokenizer,
    cache: &Path,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<Arc<TokenFile>, CorpusError> {
    let files = source::files(path, &hub::HubSettings::from_environment())?;
    let name = path.display();
    let (reading, tokenizing) = (format!("reading {name}"), format!("tokenizing {name}"));
    let mut tell = |stage, done, total| {
        let what = if stage == LoadStage::Reading { &reading } else { &tokenizing };
        progress(what, done, total);
    };
    let file = TokenFile::open(&files, rules, tokenizer, cache, &mut tell)?;
    if file.is_empty() {
        return Err(CorpusError::Empty { name: name.to_string(), read: file.report().rows });
    }
    Ok(Arc::new(file))
}
