//! The scorer's model: loaded, or trained on the rows of the histories.

use std::io;
use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use chat::{History, jsonl};
use configs::model::{Start, TokenizerConfig};
use configs::{
    CheckpointConfig, ModelSource, ModelStart, RunConfig, SftConfig, SftData, SftTrain, SynthConfig, SynthStep,
};
use data_synth::scorer::tokens::ScorerTokens;
use data_synth::scorer::{ScorerRow, ScorerSettings, training_row, training_text};
use lm::LocalModel;
use lm::generate::{ScoreRequest, Scored};
use lm::pretrained;
use trainer::{ParallelContext, checkpoints, start};

use crate::error::Error;
use crate::synth::{StepContext, models, stamps};
use crate::{generate, parts, sft};

/// The number of users whose texts train the tokenizer of a new model.
const TOKENIZER_USERS: usize = 8000;

/// The number of updates between two checkpoints of the training.
const CHECKPOINT_EVERY: usize = 200;

/// Loads the scorer that `scorer.trained` names, or trains one on the rows of the histories. A scorer that the folder of the step
/// already holds is trained again only if rows or configuration differ; an interrupted training resumes from its last checkpoint.
pub(super) fn model(context: &StepContext<'_>, histories: &Path) -> Result<LocalModel, Error> {
    let config = &context.config.scorer;
    if !config.trained.is_empty() {
        return Ok(start::load(&source(config.trained.clone(), &config.model))?);
    }
    let folder = context.of(SynthStep::Signal);
    let training = training(context, histories)?;
    let (run, key) = (training.folder(), folder.join("scorer.key"));
    let trained = run.join("model");
    if let Some(path) = &config.model.path {
        // The files of the model are part of the fingerprint, and the training would download them only later.
        pretrained::locate(path)?;
    }
    let fingerprint = fingerprint(context.config, &training)?;
    if std::fs::read_to_string(&key).is_ok_and(|text| text == fingerprint) {
        if trained.is_dir() {
            context.reporter.info("the scorer is trained already");
            return Ok(start::load(&source(trained.display().to_string(), &config.model))?);
        }
    } else {
        // The key goes first: without it, what is left of the folder counts as that of another scorer.
        remove(&key)?;
        remove(&run)?;
        parts::write(&key, &fingerprint)?;
    }
    let steps = run.join("checkpoints");
    let resume = checkpoints::newest(&steps)?.is_some();
    let model = sft::run(&training, ParallelContext::single(), resume, context.reporter)?.into_model()?;
    generate::save(&trained, &model)?;
    // Their optimizer state is several times as large as the model.
    remove(&steps)?;
    Ok(model)
}

/// Removes a file or a folder, if it exists.
fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::environment(format!("{}: cannot remove: {e}; fix permissions", path.display())))
        }
        _ => Ok(()),
    }
}

fn source(path: String, model: &ModelStart) -> ModelSource {
    ModelSource { path, dtype: model.dtype, device: model.device, ..ModelSource::default() }
}

/// Writes the training rows, and returns the configuration of the training.
fn training(context: &StepContext<'_>, histories: &Path) -> Result<SftConfig, Error> {
    let SynthConfig { seed, threads, scorer, signal, .. } = context.config;
    let folder = context.of(SynthStep::Signal);
    let settings =
        ScorerSettings { seed: *seed, max_interactions: signal.max_interactions, max_length: scorer.train_max_length };
    let mut model = scorer.model.clone();
    if let Start::Random { tokenizer: TokenizerConfig { path: None, vocab_size }, .. } = model.start() {
        let path = Some(trained_tokenizer(&folder.join("scorer-tokenizer"), histories, settings, vocab_size)?);
        model.tokenizer = Some(TokenizerConfig { path, vocab_size });
    }
    let (spec, tokenizer) = start::shape_of(&model, &SftData::default())?;
    let settings = ScorerSettings { max_length: settings.max_length.min(spec.context()), ..settings };
    let rows = folder.join("scorer-rows.jsonl");
    let count = training_rows(&rows, histories, settings, &tokenizer)?;
    if count == 0 {
        return Err(Error::data(format!(
            "{}: no row to train the scorer on; expected choices with a `rejected` item that fit into scorer.train_max_length = {} \
             tokens (targets of messages need signal.by = \"judge\")",
            histories.display(),
            settings.max_length
        )));
    }
    context.reporter.info(&format!("{count} rows to train the scorer on"));
    Ok(SftConfig {
        name: "scorer".into(),
        out: folder,
        seed: *seed,
        threads: *threads,
        model,
        data: SftData { train: rows, max_length: settings.max_length, ..SftData::default() },
        train: scorer.train.clone(),
        optimizer: scorer.optimizer.clone(),
        // The model is saved where the training is known to be complete.
        checkpoint: CheckpointConfig {
            every: CHECKPOINT_EVERY,
            keep_last: 1,
            at_end: false,
            ..CheckpointConfig::default()
        },
        ..SftConfig::default()
    })
}

/// Trains the tokenizer of a new model on the texts of the first users, and returns its folder.
fn trained_tokenizer(
    folder: &Path,
    histories: &Path,
    settings: ScorerSettings,
    vocab_size: usize,
) -> Result<PathBuf, Error> {
    let mut texts = Vec::new();
    for row in jsonl::stream::<History>(histories)?.take(TOKENIZER_USERS) {
        texts.push(training_text(&row?.1, settings));
    }
    let trained = start::tokenizer(&TokenizerConfig { path: None, vocab_size }, texts.iter().map(String::as_str))?;
    std::fs::create_dir_all(folder).map_err(|e| Error::environment(format!("{}: {e}", folder.display())))?;
    trained.save(folder).map_err(lm::LmError::from)?;
    Ok(folder.into())
}

/// Writes a row for each user with a choice between two items, and returns the number of rows.
fn training_rows(
    path: &Path,
    histories: &Path,
    settings: ScorerSettings,
    tokenizer: &Tokenizer,
) -> Result<usize, Error> {
    let mut count = 0;
    jsonl::write_with::<ScorerRow, Error>(path, |write| {
        for row in jsonl::stream::<History>(histories)? {
            let (_, history) = row?;
            if let Some(row) = training_row(&history, settings, tokenizer).map_err(lm::LmError::from)? {
                write(&row)?;
                count += 1;
            }
        }
        Ok(())
    })?;
    Ok(count)
}

/// Returns a hash of all that the scorer depends on: configuration, rows, tokenizer, and the model that the training starts from.
fn fingerprint(config: &SynthConfig, training: &SftConfig) -> Result<String, Error> {
    let rows = hash(&training.data.train)?;
    let tokenizer = match &training.model.tokenizer {
        Some(TokenizerConfig { path: Some(folder), .. }) => hash(&folder.join("tokenizer.json"))?,
        _ => String::new(),
    };
    let start = models::identities(config, SynthStep::Signal);
    let text = without_places(training).resolved()?;
    Ok(stamps::sha256(format!("{text}{rows}{tokenizer}{start:?}").as_bytes()))
}

/// Returns the configuration with the defaults of all keys that do not change the scorer: its speed, and where its files lie.
fn without_places(training: &SftConfig) -> SftConfig {
    let SftTrain { micro_batch_tokens, activation_checkpointing_every, .. } = SftTrain::default();
    let mut plain = training.clone();
    plain.out = PathBuf::new();
    plain.threads = 0;
    plain.data.train = PathBuf::new();
    plain.train = SftTrain { micro_batch_tokens, activation_checkpointing_every, ..plain.train };
    plain.checkpoint = CheckpointConfig::default();
    if let Some(tokenizer) = &mut plain.model.tokenizer {
        tokenizer.path = None;
    }
    plain
}

fn hash(path: &Path) -> Result<String, Error> {
    let (_, hash) = files::sha256(path)
        .map_err(|e| Error::data(format!("{}: cannot read: {e}; fix permissions", path.display())))?;
    Ok(hash)
}

/// Returns the log-probabilities of the letters of each text.
pub(super) fn letter_logprobs(model: &LocalModel, texts: &[ScorerTokens]) -> Result<Vec<Vec<f64>>, String> {
    let first = |text: &ScorerTokens| text.indices.first().copied().unwrap_or(1);
    let request =
        |text: &ScorerTokens| ScoreRequest { ids: text.ids.clone(), from: first(text), candidates: Vec::new() };
    let requests: Vec<ScoreRequest> = texts.iter().map(request).collect();
    let (scored, _) = model.generator().score(&requests).map_err(|e| e.to_string())?;
    let letters = |(text, scored): (&ScorerTokens, &Scored)| {
        let logprobs = text.indices.iter().filter_map(|index| scored.logprobs.get(index - first(text)));
        // Rounding may lift a certain letter above 0.
        logprobs.map(|&logprob| f64::from(logprob).min(0.0)).collect::<Vec<f64>>()
    };
    Ok(texts.iter().zip(&scored).map(letters).collect())
}
