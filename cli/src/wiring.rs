//! From configurations to the parts they name.

use std::path::Path;
use std::time::Duration;

use chat::records::Checked;
use chat::{Completer, PromptSet, RlRow, Sampling, jsonl};
use configs::judge::{ItemOrders, JudgeConfig, JudgeMode as ConfiguredMode, JudgePlacement};
use configs::rl::RewardConfig;
use configs::sampling::SamplingConfig;
use remote::{RemoteModel, Settings};
use rewards::{Composition, JudgeMode, JudgeSettings, Orders};
use serde::de::DeserializeOwned;
use trainer::start;

use crate::failure::Failure;

/// Loads a prompt set by name or folder.
pub fn prompts(set: &str) -> Result<PromptSet, Failure> {
    Ok(PromptSet::new(set, &configs::prompts::sources(set)?)?)
}

/// The rows of a file, local or on the hub.
pub fn rows<T: DeserializeOwned + Checked>(path: &Path) -> Result<Vec<T>, Failure> {
    let local = hub::data(path, &hub::Settings::from_environment()).map_err(trainer::TrainError::from)?;
    Ok(jsonl::read(&local)?)
}

/// The people of reinforcement learning: a file, a folder or a data set of the hub.
pub fn people(path: &Path) -> Result<Vec<RlRow>, Failure> {
    Ok(corpus::people(path, &hub::Settings::from_environment())?)
}

/// The model behind a judge, in this process or at an endpoint.
pub fn judge_model(config: &JudgeConfig) -> Result<Box<dyn Completer>, Failure> {
    let at = &config.endpoint;
    if !at.is_given() {
        return Ok(match config.placement {
            JudgePlacement::Resident => Box::new(start::load(&config.model)?),
            JudgePlacement::Offload => {
                let device = start::device(config.model.device).map_err(Failure::from)?;
                let on_host = configs::ModelSource { device: configs::Device::Cpu, ..config.model.clone() };
                Box::new(lm::Offloaded::new(start::load(&on_host)?, device).map_err(trainer::TrainError::from)?)
            }
        });
    }
    let api_key = match at.api_key_env.as_str() {
        "" => None,
        name => Some(std::env::var(name).map_err(|_| {
            Failure::usage(format!("endpoint.api_key_env names the environment variable {name}, which is not set"))
        })?),
    };
    let settings = Settings {
        api_key,
        concurrency: at.concurrency,
        timeout: Duration::from_secs_f64(at.timeout_seconds),
        retries: at.retries,
        ..Settings::new(&at.url, &at.model)
    };
    let model = RemoteModel::new(settings);
    Ok(Box::new(match at.journal.as_os_str().is_empty() {
        true => model,
        false => model.with_journal(&at.journal).map_err(|e| Failure::data(e.to_string()))?,
    }))
}

/// How a judge is asked; `seed` decides the item order where only one is asked.
pub fn judge_settings(config: &JudgeConfig, seed: u64) -> JudgeSettings {
    let mode = match config.mode {
        ConfiguredMode::Forced => JudgeMode::Forced,
        ConfiguredMode::Reasoned => JudgeMode::Reasoned { max_new_tokens: config.max_new_tokens },
    };
    let orders = match config.orders {
        ItemOrders::Both => Orders::Both,
        ItemOrders::One => Orders::One { seed },
    };
    JudgeSettings { choices: config.choices.clone(), ..JudgeSettings::new(mode, orders, config.answer_prefix.clone()) }
}

/// The reward a configuration describes.
pub fn composition(config: &RewardConfig) -> Result<Composition, Failure> {
    let weights: Vec<(&str, f64)> = config.terms.iter().map(|t| (t.name.as_str(), t.weight)).collect();
    Ok(Composition::new(&weights)?)
}

/// The first local file of rows that does not exist.
pub fn missing_data(data: &configs::SftData) -> Option<String> {
    let train = (!data.train.as_os_str().is_empty()).then_some(&data.train);
    let all = train.into_iter().chain(data.mix.iter().map(|set| &set.path));
    let validation = (!data.validation.as_os_str().is_empty()).then_some(&data.validation);
    let local = |path: &&std::path::PathBuf| !path.to_string_lossy().starts_with("hf://");
    all.chain(validation).filter(local).find(|path| !path.exists()).map(|path| path.display().to_string())
}

/// What is read of histories.
pub fn settings(config: &[configs::Setting]) -> Vec<evals::Setting> {
    let one = |setting: &configs::Setting| match setting {
        configs::Setting::Direct => evals::Setting::Direct,
        configs::Setting::Full => evals::Setting::Full,
        configs::Setting::Streaming => evals::Setting::Streaming,
    };
    config.iter().map(one).collect()
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// How tokens are drawn.
pub fn sampling(config: &SamplingConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    }
}

/// Writes a text file of a run, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    files::replace(path, |out| out.write_all(text.as_bytes())).map_err(|e| {
        trainer::TrainError::File {
            path: path.into(),
            message: format!("cannot write: {e}; free space or permissions, or choose another folder"),
        }
        .into()
    })
}
