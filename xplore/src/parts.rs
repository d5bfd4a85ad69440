//! Construction of the components that a configuration names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chat::records::Checked;
use chat::{Completer, PromptSet, Sampling, jsonl};
use configs::judge::{JudgeConfig, JudgeMode, JudgePlacement};
use configs::rl::{RewardConfig, RlData};
use configs::sampling::SamplingConfig;
use corpus::Users;
use remote::{ClientSettings, RemoteModel};
use rewards::{Composition, JudgeSettings, Registry};
use serde::de::DeserializeOwned;
use trainer::start;

use crate::error::Error;

/// Loads a prompt set by its built-in name or from a folder. An empty name is the default for models that carry no set; see
/// [`wording`](crate::wording) for the set of a model.
///
/// # Errors
/// Returns an error if the prompt set does not exist or a template is not valid.
pub fn prompts(set: &str) -> Result<PromptSet, Error> {
    let set = if set.is_empty() { configs::prompts::DEFAULT } else { set };
    Ok(PromptSet::new(set, &configs::prompts::sources(set)?)?)
}

/// Returns the path of a file on this machine: `path` itself, or the downloaded file of a dataset on the hub (`hf://datasets/…`).
///
/// # Errors
/// Returns an error if the file on the hub is not available.
pub fn local(path: &Path) -> Result<PathBuf, Error> {
    Ok(hub::data(path, &hub::HubSettings::from_environment())?)
}

/// Reads the rows of a local file or a file on the hub.
///
/// # Errors
/// Returns an error if the file cannot be read or a row is not valid.
pub fn rows<T: DeserializeOwned + Checked>(path: &Path) -> Result<Vec<T>, Error> {
    Ok(jsonl::read(&local(path)?)?)
}

/// Reads the users of reinforcement learning from a file, a folder or a dataset on the hub.
///
/// # Errors
/// Returns an error if the users cannot be read, or if a row is unusable and `data.unusable` does not skip it.
pub fn users(data: &RlData) -> Result<Users, Error> {
    Ok(corpus::users(&data.train, data.unusable, &hub::HubSettings::from_environment())?)
}

/// Loads a judge's model in this process, or connects to its endpoint.
///
/// # Errors
/// Returns an error if the model cannot be loaded, the API key of the endpoint is missing, or its journal cannot be read.
pub fn judge_model(config: &JudgeConfig) -> Result<Box<dyn Completer>, Error> {
    if !config.endpoint.is_given() {
        return Ok(match config.placement {
            JudgePlacement::Resident => Box::new(start::load(&config.model)?),
            JudgePlacement::Offload => {
                let device = start::device(config.model.device).map_err(Error::from)?;
                let on_host = configs::ModelSource { device: configs::Device::Cpu, ..config.model.clone() };
                Box::new(lm::Offloaded::new(start::load(&on_host)?, device).map_err(trainer::TrainError::from)?)
            }
        });
    }
    Ok(Box::new(remote_model(config)?))
}

/// Connects to the endpoint of a judge.
///
/// # Errors
/// Returns an error if the API key of the endpoint is missing, or its journal cannot be read.
pub fn remote_model(config: &JudgeConfig) -> Result<RemoteModel, Error> {
    let at = &config.endpoint;
    let api_key = match at.api_key_env.as_str() {
        "" => None,
        name => Some(std::env::var(name).map_err(|_| {
            Error::usage(format!("endpoint.api_key_env names the environment variable {name}, which is not set"))
        })?),
    };
    let settings = ClientSettings {
        api_key,
        concurrency: at.concurrency,
        timeout: Duration::from_secs_f64(at.timeout_seconds),
        retries: at.retries,
        server_defaults: left_to_the_server(config),
        ..ClientSettings::new(&at.url, &at.model)
    };
    let model = RemoteModel::new(settings);
    match at.journal.as_os_str().is_empty() {
        true => Ok(model),
        false => model.with_journal(&at.journal).map_err(|e| Error::data(e.to_string())),
    }
}

/// Returns the sampling parameters that an endpoint chooses itself because the configuration does not set them.
fn left_to_the_server(config: &JudgeConfig) -> Vec<&'static str> {
    if config.mode != JudgeMode::Sampled {
        return Vec::new();
    }
    let given = [
        ("temperature", config.temperature.is_some()),
        ("top_k", config.top_k.is_some()),
        ("top_p", config.top_p.is_some()),
    ];
    given.into_iter().filter(|(_, given)| !given).map(|(name, _)| name).collect()
}

/// Returns the settings of a judge. `seed` determines the item order if the judge sees only one order, and sampled answers.
pub fn judge_settings(config: &JudgeConfig, seed: u64) -> JudgeSettings {
    JudgeSettings {
        mode: config.mode,
        max_new_tokens: config.max_new_tokens,
        temperature: config.temperature.unwrap_or(1.0),
        top_k: config.top_k.unwrap_or(0),
        top_p: config.top_p.unwrap_or(1.0),
        orders: config.orders,
        seed,
        answer_prefix: config.answer_prefix.clone(),
        choices: config.choices.clone(),
        no_answer: config.no_answer,
    }
}

/// Builds the reward terms of a configuration.
///
/// # Errors
/// Returns an error if a term is not registered or does not accept its `params`.
pub fn composition(config: &RewardConfig, registry: &Registry) -> Result<Composition, Error> {
    Ok(Composition::from_config(registry, config)?)
}

/// Returns the first local data file that does not exist.
pub fn missing_data(data: &configs::SftData) -> Option<String> {
    let train = (!data.train.as_os_str().is_empty()).then_some(&data.train);
    let all = train.into_iter().chain(data.mix.iter().map(|set| &set.path));
    let validation = (!data.validation.as_os_str().is_empty()).then_some(&data.validation);
    let local = |path: &&std::path::PathBuf| !path.to_string_lossy().starts_with("hf://");
    all.chain(validation).filter(local).find(|path| !path.exists()).map(|path| path.display().to_string())
}

/// Formats a duration in seconds for display.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

/// Returns the sampling parameters of a configuration.
pub fn sampling(config: &SamplingConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    }
}

/// Writes a text file of a run atomically.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    files::replace(path, |out| out.write_all(text.as_bytes())).map_err(|e| {
        trainer::TrainError::File {
            path: path.into(),
            message: format!("cannot write: {e}; free space, fix permissions, or choose another folder"),
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_that_is_not_set_is_left_to_the_server_and_else_keeps_the_whole_distribution() {
        let mut config = JudgeConfig { mode: JudgeMode::Sampled, no_answer: 0.25, ..JudgeConfig::default() };
        let settings = judge_settings(&config, 7);
        assert_eq!((settings.temperature, settings.top_k, settings.top_p), (1.0, 0, 1.0));
        assert_eq!((settings.mode, settings.no_answer, settings.seed), (JudgeMode::Sampled, 0.25, 7));
        assert_eq!(left_to_the_server(&config), ["temperature", "top_k", "top_p"]);
        (config.temperature, config.top_k, config.top_p) = (Some(0.6), Some(20), Some(0.95));
        let settings = judge_settings(&config, 7);
        assert_eq!((settings.temperature, settings.top_k, settings.top_p), (0.6, 20, 0.95));
        assert!(left_to_the_server(&config).is_empty());
        // The other modes decode greedily, so the temperature is sent.
        let forced = JudgeConfig { mode: JudgeMode::Forced, ..JudgeConfig::default() };
        assert!(left_to_the_server(&forced).is_empty());
    }
}
