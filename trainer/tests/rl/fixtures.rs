//! A small policy, people, and a judge that is a function of the text.

use chat::tokenizer::Tokenizer;
use chat::{Draw, Interaction, PromptSet, RlRow};
use configs::RlConfig;
use configs::lora::LoraConfig;
use configs::model::{Device, Dtype, Family, ModelShape};
use rewards::{Composition, Response};
use trainer::TrainError;
use trainer::rl::people::People;
use trainer::rl::rollout::{Group, Rollouts, Spent};
use trainer::start;
use trainer::trainee::{Lora, Trainee};

const WORDS: [&str; 12] =
    ["warm", "stories", "about", "space", "long", "dry", "reports", "finance", "quiet", "harbours", "night", "boats"];

/// Rows of `people` people with histories of 6 to 9 choices.
pub fn rows(people: usize) -> Vec<RlRow> {
    let item = |a: usize, b: usize| format!("{} {}", WORDS[a % 12], WORDS[b % 12]);
    (0..people)
        .map(|p| {
            let choice = |i: usize| Interaction {
                chosen: item(p + i, p * 5 + 3 * i),
                rejected: Some(item(p + i + 1, p + 7 * i + 2)),
                ..Interaction::default()
            };
            RlRow {
                uid: format!("p{p}"),
                history: (0..6 + p % 4).map(choice).collect(),
                mid_position: 3,
                mid_record: Default::default(),
                last_record: Default::default(),
                signal_gap: 0.0,
                distance_to_end: 2 + p % 4,
                targets: (21..25).map(choice).collect(),
            }
        })
        .collect()
}

/// A configuration small enough for tests.
pub fn config() -> RlConfig {
    let mut config = RlConfig { seed: 7, prompts: "compact".into(), ..RlConfig::default() };
    config.rollout.people_per_step = 4;
    config.rollout.samples = 3;
    config.rollout.max_prompt_tokens = 400;
    config.rollout.max_new_tokens = 12;
    config.algorithm.updates_per_step = 2;
    config.algorithm.tokens_per_microbatch = 4096;
    config.optimizer.lr = 1e-3;
    config.train.steps = 2;
    config.log.rollouts_every = 0;
    config
}

/// A model of random weights that writes different words.
pub fn trainee(config: &RlConfig, lora: Option<&LoraConfig>) -> Trainee {
    trainee_of(Family::Qwen3, config, lora)
}

/// The same of another family.
pub fn trainee_of(family: Family, config: &RlConfig, lora: Option<&LoraConfig>) -> Trainee {
    // Tests run beside each other; threads of one that wait for threads of another would take all the time.
    tch::set_num_threads(1);
    let texts = [WORDS.join(" ")];
    let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), 320).unwrap();
    let small =
        ModelShape { hidden_size: 64, intermediate_size: 128, layers: 2, head_dim: 16, ..ModelShape::default() };
    let shape = ModelShape { family, init_std: 0.2, max_position_embeddings: 512, ..small };
    let model = start::random("policy", &shape, tokenizer, 5, (Device::Cpu, Dtype::Fp32)).unwrap();
    let lora = lora.map(|config| Lora { config, base: "base", seed: 3 });
    Trainee::new(model, lora, &config.optimizer).unwrap()
}

/// A judge whose answer is drawn from the text and the choice; every third response fails the gate.
pub fn drawn(responses: &[Response<'_>], _: usize) -> Result<Vec<Option<f64>>, TrainError> {
    let one = |r: &Response<'_>| {
        let draw = Draw::new(1).text(r.text).text(&r.target.chosen);
        (draw.with(1).below(3) > 0).then(|| draw.below(1000) as f64 / 1000.0)
    };
    Ok(responses.iter().map(one).collect())
}

/// Calls `f` with everything that rolls out.
pub fn with_rollouts<T>(config: &RlConfig, f: impl FnOnce(Rollouts<'_>) -> T) -> T {
    let prompts = PromptSet::new("compact", &configs::prompts::sources("compact").unwrap()).unwrap();
    let weights: Vec<(&str, f64)> = config.reward.terms.iter().map(|t| (t.name.as_str(), t.weight)).collect();
    let composition = Composition::new(&weights).unwrap();
    f(Rollouts { prompts: &prompts, judging: &drawn, composition: &composition, config })
}

/// A step's groups.
pub fn rolled_out(config: &RlConfig, trainee: &Trainee) -> Vec<Group> {
    let rows = rows(8);
    let mut people = People::new(&rows, config).unwrap();
    let next = people.next(config.rollout.people_per_step, (0, 0));
    with_rollouts(config, |rollouts| {
        trainee.as_one(|model| rollouts.roll_out((model, &trainee.team), &next, (0, 0), &mut Spent::default())).unwrap()
    })
}
