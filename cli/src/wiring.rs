//! From configurations to the parts they name.

use std::path::Path;

use chat::{PromptSet, Sampling};
use configs::judge::{ItemOrders, JudgeConfig, JudgeMode as ConfiguredMode};
use configs::rl::RewardConfig;
use configs::sampling::SamplingConfig;
use rewards::{Composition, JudgeMode, JudgeSettings, Orders};

use crate::failure::Failure;

/// Loads a prompt set by name or folder.
pub fn prompts(set: &str) -> Result<PromptSet, Failure> {
    Ok(PromptSet::new(set, &configs::prompts::sources(set)?)?)
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

/// How tokens are drawn.
pub fn sampling(config: &SamplingConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    }
}

/// Writes a text file of a run.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text)).map_err(|e| {
        trainer::TrainError::File {
            path: path.into(),
            message: format!("cannot write: {e}; free space or permissions, or choose another folder"),
        }
        .into()
    })
}
