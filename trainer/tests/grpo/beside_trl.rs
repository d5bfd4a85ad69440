//! One step compared with TRL's GRPOTrainer on the same rollouts and rewards: advantages, log-probabilities, loss, gradient.

use configs::RlConfig;
use configs::model::{Device, Dtype, ModelSource};
use configs::rl::algorithm::{Advantage, Aggregation, OldLogprobs};
use python_reference::ask;
use serde_json::{Value as Json, json};
use tch::Kind;
use tolerance::assert_within;
use trainer::grpo::Reference;
use trainer::grpo::advantages::credit;
use trainer::grpo::group::{Group, GroupInput, Sample};
use trainer::grpo::update::{accumulate, measure, policy_logprobs, reference_logprobs, train_samples};
use trainer::start;
use trainer::trainable_model::TrainableModel;

struct Case {
    family: &'static str,
    loss: &'static str,
    beta: f64,
    scale: &'static str,
}

impl Case {
    fn name(&self) -> String {
        format!("{} {} {} {}", self.family, self.loss, self.beta, self.scale)
    }

    fn asked(&self) -> Json {
        json!({"name": self.name(), "family": self.family, "loss_type": self.loss, "beta": self.beta,
               "scale_rewards": self.scale, "importance_sampling_level": "token"})
    }

    fn config(&self, folder: &std::path::Path, length: usize) -> RlConfig {
        let mut config = RlConfig::default();
        let at = |kind: &str| folder.join(format!("{kind}-{}", self.family)).display().to_string();
        config.model =
            ModelSource { path: at("policy"), dtype: Dtype::Fp32, device: Device::Cpu, ..ModelSource::default() };
        config.algorithm.kl.coefficient = self.beta;
        config.algorithm.kl.reference = at("model");
        config.algorithm.old_logprobs = OldLogprobs::Recompute;
        config.algorithm.advantage_eps = 1e-4;
        config.algorithm.aggregation_length = length;
        config.algorithm.aggregation = match self.loss {
            "grpo" => Aggregation::SequenceMeanTokenMean,
            "dr_grpo" => Aggregation::Constant,
            _ => Aggregation::TokenMean,
        };
        config.algorithm.advantage = match self.scale {
            "group" => Advantage::GroupStd,
            "batch" => Advantage::BatchStd,
            _ => Advantage::GroupMean,
        };
        config
    }
}

fn groups(rollouts: &Json) -> Vec<Group> {
    let ids = |v: &Json| -> Vec<u32> { v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect() };
    let group = |(user, g): (usize, &Json)| {
        let responses = g["responses"].as_array().unwrap().iter().zip(g["rewards"].as_array().unwrap());
        let sample = |(response, reward): (&Json, &Json)| Sample {
            ids: ids(response),
            rollout: vec![0.0; response.as_array().unwrap().len()],
            old: Vec::new(),
            reference: Vec::new(),
            text: String::new(),
            truncated: false,
            p_chosen: Some(0.5),
            verdicts: Vec::new(),
            no_answer: 0.0,
            reward: rewards::Reward {
                total: reward.as_f64().unwrap(),
                scores: Vec::new(),
                parts: Vec::new(),
                well_formed: true,
            },
        };
        Group {
            user,
            uid: user.to_string(),
            stage: 0,
            continues: false,
            parent: None,
            prompt: ids(&g["prompt"]),
            samples: responses.map(sample).collect(),
            carried: Vec::new(),
            input: GroupInput::default(),
        }
    };
    rollouts.as_array().unwrap().iter().enumerate().map(group).collect()
}

#[test]
fn a_step_is_trls() {
    let case = |family, loss, beta, scale| Case { family, loss, beta, scale };
    let mut cases = Vec::new();
    for family in ["qwen3", "llama"] {
        for loss in ["grpo", "dapo"] {
            cases.extend([0.0, 0.04, 1.0].map(|beta| case(family, loss, beta, "group")));
        }
    }
    cases.extend([case("qwen3", "dr_grpo", 0.04, "none"), case("qwen3", "dapo", 0.0, "batch")]);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("models");
    std::fs::create_dir(&folder).unwrap();
    let asked: Vec<Json> = cases.iter().map(Case::asked).collect();
    let answers = ask("grpo_step.py", &json!({ "folder": folder, "cases": asked }), place.path());
    let rollouts: Json = serde_json::from_slice(&std::fs::read(folder.join("rollouts.json")).unwrap()).unwrap();
    for case in &cases {
        let (name, answer) = (case.name(), &answers[case.name()]);
        let number = |key: &str| answer[key].as_f64().unwrap();
        let config = case.config(&folder, answer["aggregation_length"].as_u64().unwrap() as usize);
        let trainable = TrainableModel::new(start::load(&config.model).unwrap(), None, &config.optimizer).unwrap();
        let mut groups = groups(&rollouts);
        let places: Vec<(usize, usize)> =
            (0..groups.len()).flat_map(|g| (0..groups[g].samples.len()).map(move |i| (g, i))).collect();
        for (&(g, i), seen) in places.iter().zip(policy_logprobs(&trainable, &groups, &places, &config).unwrap().0) {
            groups[g].samples[i].old = seen.logprobs;
        }
        if let Some(reference) = Reference::new(&trainable, &config).unwrap() {
            let seen = reference_logprobs(&reference, &trainable, &groups, &places, &config).unwrap().0;
            for (&(g, i), seen) in places.iter().zip(seen) {
                groups[g].samples[i].reference = seen.logprobs;
            }
        }
        let advantages = credit(&groups, &config).unwrap();
        for (got, want) in advantages.advantages.concat().iter().zip(answer["advantages"].as_array().unwrap()) {
            assert_within!(got - want.as_f64().unwrap(), 1e-4, "{name}: advantage {got}, TRL {want}");
        }
        let train_samples = train_samples(&groups, &advantages, &places, &config);
        let (seen, _) = accumulate(&trainable, &train_samples, &config, 0).unwrap();
        for (k, seen) in seen.iter().enumerate() {
            for (t, got) in seen.logprobs.iter().enumerate() {
                let want = answer["logprobs"][k][t].as_f64().unwrap();
                assert_within!(f64::from(*got) - want, 2e-5, "{name}: log-probability {k} {t}: {got}, TRL {want}");
            }
        }
        let loss = measure(&train_samples, &seen, &config).loss;
        let want = number("loss");
        // Without KL, the advantages of each group cancel in `grpo`: both losses are rounding errors around 0.
        assert_within!(loss - want, 1e-4 * want.abs().max(1e-2), "{name}: loss {loss}, TRL {want}");
        let norm = trainable.gradients().to_kind(Kind::Double).norm().double_value(&[]);
        let want = number("grad_norm");
        assert_within!(norm / want - 1.0, 1e-4, "{name}: norm of the gradient {norm}, TRL {want}");
    }
}
