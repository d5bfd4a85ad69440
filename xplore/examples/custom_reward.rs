//! GRPO with a custom reward term: summaries with fewer words receive a higher reward.
//!
//!     cargo run --release -p xplore --example custom_reward -- MODEL USERS OUT
//!
//! MODEL: a model folder; the model is both policy and judge. USERS: a file of histories, such as examples/rl.jsonl. The run's
//! folder is OUT/custom-reward.

use std::error::Error;
use std::path::Path;

use serde::Deserialize;
use xplore::configs::{self, RlConfig};
use xplore::{Registry, RewardBatch, RewardError, RewardTerm, Silent, grpo, runtime};

/// 1 − words / limit, and 0 at or above the limit; 0 for a malformed response.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FewWords {
    limit: usize,
}

impl RewardTerm for FewWords {
    fn score(&self, batch: &RewardBatch<'_>) -> Result<Vec<f64>, RewardError> {
        let score = |summary: &str| {
            let words = summary.split_whitespace().count();
            1.0 - words.min(self.limit) as f64 / self.limit as f64
        };
        Ok(batch.responses.iter().map(|response| response.summary().map_or(0.0, score)).collect())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, users, out] = &arguments[..] else { return Err("usage: custom_reward MODEL USERS OUT".into()) };
    let text = format!(
        r#"
        name = "custom-reward"
        out = "{out}"
        prompts = "compact"
        model = {{ path = "{model}", dtype = "fp32", device = "cpu" }}
        judge = {{ prompts = "compact", model = {{ path = "{model}", dtype = "fp32", device = "cpu" }} }}
        data.train = "{users}"
        rollout = {{ users_per_step = 4, max_new_tokens = 16 }}
        train.steps = 2

        [[reward.terms]]
        name = "judge"

        [[reward.terms]]
        name = "few_words"
        weight = 0.1
        params = {{ limit = 40 }}
        "#
    );
    let config: RlConfig = configs::parse(Path::new("custom_reward"), &text, &[])?;
    let mut registry = Registry::default();
    registry.register::<FewWords>("few_words")?;
    let context = runtime::init_distributed(config.threads, config.model.device, &config.parallel)?;
    grpo::run(&config, &registry, context, false, &Silent)?;
    println!("{}", Path::new(out).join("custom-reward").display());
    Ok(())
}
