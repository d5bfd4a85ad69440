//! A small policy, users, and a judge that is a function of the text.

use chat::tokenizer::Tokenizer;
use chat::{Draw, Interaction, PromptSet, Question, RlRow};
use configs::RlConfig;
use configs::lora::LoraConfig;
use configs::model::{Device, Dtype, Family, ModelShape};
use rewards::{Composition, Registry, Response, TermSpec};
use trainer::TrainError;
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::group::Group;
use trainer::grpo::rollout::Rollouts;
use trainer::start;
use trainer::trainable_model::{Lora, TrainableModel};

const WORDS: [&str; 12] =
    ["warm", "stories", "about", "space", "long", "dry", "reports", "finance", "quiet", "harbours", "night", "boats"];

/// Returns rows of `users` users with histories of 6 to 9 interactions.
pub fn rows(users: usize) -> Vec<RlRow> {
    let item = |a: usize, b: usize| format!("{} {}", WORDS[a % 12], WORDS[b % 12]);
    (0..users)
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

/// Returns a configuration small enough for tests.
pub fn config() -> RlConfig {
    let mut config = RlConfig { seed: 7, prompts: "compact".into(), ..RlConfig::default() };
    config.rollout.users_per_step = 4;
    config.rollout.num_generations = 3;
    config.rollout.max_prompt_tokens = 400;
    config.rollout.max_new_tokens = 12;
    config.algorithm.num_minibatches = 2;
    config.algorithm.micro_batch_tokens = 4096;
    config.optimizer.lr = 1e-3;
    config.train.steps = 2;
    config.log.rollouts_every = 0;
    config
}

/// Returns a model with random weights whose generations vary.
pub fn trainable(config: &RlConfig, lora: Option<&LoraConfig>) -> TrainableModel {
    trainee_of(Family::Qwen3, config, lora)
}

/// Returns the same for another family.
pub fn trainee_of(family: Family, config: &RlConfig, lora: Option<&LoraConfig>) -> TrainableModel {
    // Tests run in parallel; with more threads each, they would mostly wait for each other.
    tch::set_num_threads(1);
    let texts = [WORDS.join(" ")];
    let tokenizer = Tokenizer::train(texts.iter().map(String::as_str), 320).unwrap();
    let small =
        ModelShape { hidden_size: 64, intermediate_size: 128, layers: 2, head_dim: 16, ..ModelShape::default() };
    let shape = ModelShape { family, init_std: 0.2, max_position_embeddings: 512, ..small };
    let model = start::random("policy", &shape, tokenizer, 5, (Device::Cpu, Dtype::Fp32)).unwrap();
    let lora = lora.map(|config| Lora { config, base: "base", seed: 3 });
    TrainableModel::new(model, lora, &config.optimizer).unwrap()
}

/// Judges by a pseudorandom function of the text and the choice; one response in three fails the gate.
pub fn drawn(responses: &[Response<'_>]) -> Result<Vec<Option<f64>>, TrainError> {
    let one = |r: &Response<'_>| {
        let draw = Draw::new(1).text(r.text).text(&r.target.chosen);
        (draw.with(1).below(3) > 0).then(|| draw.below(1000) as f64 / 1000.0)
    };
    Ok(responses.iter().map(one).collect())
}

/// Returns the reward of `config`.
pub fn composition(config: &RlConfig) -> Composition {
    let terms: Vec<TermSpec> = config.reward.terms.iter().map(|t| TermSpec::new(&t.name, t.weight)).collect();
    Composition::new(&Registry::default(), &terms).unwrap()
}

/// Calls `f` with the inputs of a rollout.
pub fn with_rollouts<T>(config: &RlConfig, f: impl FnOnce(Rollouts<'_>) -> T) -> T {
    let prompts = PromptSet::new("compact", &configs::prompts::sources("compact").unwrap()).unwrap();
    let composition = composition(config);
    let asking = |_: &[Question]| panic!("no term asks the judge");
    f(Rollouts { prompts: &prompts, judging: &drawn, asking: &asking, composition: &composition, config })
}

/// Returns the groups of a step.
pub fn rolled_out(config: &RlConfig, trainable: &TrainableModel) -> Vec<Group> {
    let rows = rows(8);
    let mut users = CurriculumSampler::new(&rows, config).unwrap();
    let next = users.next(config.rollout.users_per_step, (0, 0));
    with_rollouts(config, |rollouts| {
        trainable.as_one(|model| rollouts.roll_out((model, &trainable.context), &next, (0, 0))).unwrap().groups
    })
}
