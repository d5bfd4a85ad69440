//! The configuration's rows, ready to be trained on.

use std::path::Path;
use std::sync::Arc;

use chat::tokenizer::Tokenizer;
use configs::sft::{SftData, SftSet};

use crate::cache::Stage;
use crate::{CorpusError, Mixture, Report, Rules, TokenFile, source};

/// Rows to train on and to validate on.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// To train on.
    pub train: Mixture,
    /// To validate on, in the order of the file; none if the configuration names none.
    pub validation: Option<Mixture>,
    /// What became of all rows.
    pub report: CorpusReport,
}

/// What became of the rows of each set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusReport {
    /// Each set to train on by its name, rows held out for validation included.
    pub sets: Vec<(String, Report)>,
    /// The file for validation, if there is one.
    pub validation: Option<(String, Report)>,
}

/// The sets to train on with their weights: those of `mix`, or the one of `train`.
pub(crate) fn sets(data: &SftData) -> Vec<SftSet> {
    if data.mix.is_empty() { vec![SftSet { path: data.train.clone(), weight: 0.0 }] } else { data.mix.clone() }
}

/// Finds the rows of `data`, downloads them if need be, and tokenizes them into the folder `cache`, unless they are
/// there. `progress` is told what is being done, and how many bytes of how many are.
///
/// # Errors
/// What is wrong with the configuration's files or one of their rows ([`CorpusError`]).
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
    let files = source::files(path, &hub::Settings::from_environment())?;
    let name = path.display();
    let (reading, tokenizing) = (format!("reading {name}"), format!("tokenizing {name}"));
    let mut tell = |stage, done, total| {
        let what = if stage == Stage::Reading { &reading } else { &tokenizing };
        progress(what, done, total);
    };
    let file = TokenFile::open(&files, rules, tokenizer, cache, &mut tell)?;
    if file.is_empty() {
        return Err(CorpusError::Empty { name: name.to_string(), read: file.report().rows });
    }
    Ok(Arc::new(file))
}
