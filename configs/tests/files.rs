//! The TOML files of this folder load, and every config survives a round trip.

use std::fs;
use std::path::Path;

use configs::rl::algorithm::{Aggregation, AlgorithmConfig, Minibatches};
use configs::rl::reward::{FormatGate, MalformedReward};
use configs::{
    AblateConfig, BatchSize, Dtype, EvalConfig, EvalJudge, EvalModel, ItemOrders, JudgeConfig, JudgeMode, ModelShape,
    ModelSource, ModelStart, QuickstartConfig, RlConfig, RunConfig, SftConfig, StateDtype, SynthConfig,
    TokenizerConfig, Unusable,
};

fn round_trip<T: RunConfig + PartialEq + std::fmt::Debug>(config: &T) {
    let text = config.resolved().unwrap();
    let back: T = configs::parse("resolved.toml", &text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(&back, config, "{text}");
    assert_eq!(back.resolved().unwrap(), text);
}

fn load<T: RunConfig + PartialEq + std::fmt::Debug>(path: &Path) {
    let config: T = configs::load(path, &[]).unwrap_or_else(|e| panic!("{e}"));
    round_trip(&config);
}

#[test]
fn every_file_loads_and_survives_being_written_out() {
    let mut count = 0;
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match name.as_str() {
            "Cargo.toml" => continue,
            other if !other.ends_with(".toml") => continue,
            "sft.toml" | "sft-alignxplore-plus.toml" | "examples-sft.toml" => load::<SftConfig>(&path),
            "rl.toml" | "rl-alignxplore-plus.toml" | "examples-rl.toml" => load::<RlConfig>(&path),
            "ablate-hacking.toml" | "ablate-world.toml" => load::<AblateConfig>(&path),
            "synth.toml" | "synth-alignxplore-plus.toml" => load::<SynthConfig>(&path),
            "quickstart.toml" | "quickstart-tiny.toml" => load::<QuickstartConfig>(&path),
            _ => panic!("{name}: say here which config this is"),
        }
        count += 1;
    }
    assert_eq!(count, 12);
}

/// Each file of the offline example loads, and reads what the one before it writes.
#[test]
fn the_files_of_the_offline_example_follow_one_another() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/offline");
    let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    assert_eq!(names, ["eval.toml", "rl.toml", "sft.toml", "synth.toml"]);
    let [eval, rl, sft, synth] = ["eval", "rl", "sft", "synth"].map(|name| folder.join(format!("{name}.toml")));
    load::<SynthConfig>(&synth);
    load::<SftConfig>(&sft);
    load::<RlConfig>(&rl);
    load::<EvalConfig>(&eval);
    let synth: SynthConfig = configs::load(&synth, &[]).unwrap();
    let sft: SftConfig = configs::load(&sft, &[]).unwrap();
    let rl: RlConfig = configs::load(&rl, &[]).unwrap();
    let eval: EvalConfig = configs::load(&eval, &[]).unwrap();
    let export = synth.folder().join("export");
    assert_eq!((&sft.data.train, &sft.prompts), (&export.join("sft/train.jsonl"), &synth.prompts));
    assert_eq!((&rl.data.train, &rl.judge.prompts), (&export.join("rl/train.jsonl"), &synth.prompts));
    assert_eq!(rl.judge, synth.verifier);
    assert_eq!(synth.signal.summaries, synth.folder().join("summaries.jsonl"));
    assert_eq!(eval.users, export.join("eval/users.jsonl"));
    let models: Vec<&str> = eval.models.iter().map(|model| model.model.path.as_str()).collect();
    assert_eq!(models, [sft.folder(), rl.folder()].map(|folder| folder.display().to_string()));
    assert_eq!(rl.model.path, models[0]);
    assert_eq!(eval.judges[0].judge, rl.judge);
}

/// The published values are both in the defaults and spelled out in the files.
#[test]
fn the_recipe_files_say_what_the_defaults_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sft: SftConfig = configs::load(&folder.join("sft.toml"), &[]).unwrap();
    assert_eq!(sft, SftConfig { model: sft.model.clone(), data: sft.data.clone(), ..SftConfig::default() });
    assert_eq!((sft.data.max_length, sft.data.shuffle), (16384, true));
    let rl: RlConfig = configs::load(&folder.join("rl.toml"), &[]).unwrap();
    let judge = JudgeConfig { model: rl.judge.model.clone(), ..JudgeConfig::default() };
    assert_eq!(rl, RlConfig { model: rl.model.clone(), judge, data: rl.data.clone(), ..RlConfig::default() });
    let rows = rl.rollout.users_per_step * rl.rollout.num_generations * rl.rollout.stages;
    assert_eq!(rows / rl.algorithm.num_minibatches, 512 * 4);
}

/// The reward of the released code, in the file of the published recipe.
#[test]
fn the_published_recipe_judges_as_released() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rl-alignxplore-plus.toml");
    let rl: RlConfig = configs::load(&path, &[]).unwrap();
    assert_eq!((rl.reward.gate, rl.reward.malformed), (FormatGate::Published, MalformedReward::Value(0.0)));
    assert_eq!((rl.judge.mode, rl.judge.orders), (JudgeMode::Sampled, ItemOrders::One));
    assert_eq!((rl.judge.max_new_tokens, rl.judge.no_answer), (16, 0.0));
    let RlConfig { judge: JudgeConfig { temperature, top_k, top_p, .. }, .. } = rl;
    assert_eq!((temperature, top_k, top_p), (Some(0.6), Some(20), Some(0.95)));
}

/// The batches, the aggregation and the precision of the released code, in the files of the published recipe.
#[test]
fn the_published_recipe_updates_as_released() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rl: RlConfig = configs::load(&folder.join("rl-alignxplore-plus.toml"), &[]).unwrap();
    let AlgorithmConfig { aggregation, minibatches, published_ranks, micro_batch_sequences, .. } = rl.algorithm;
    assert_eq!((aggregation, minibatches), (Aggregation::MicroBatchTokenMean, Minibatches::Published));
    assert_eq!((published_ranks, micro_batch_sequences, rl.algorithm.num_minibatches), (64, 8, 4));
    // 512 users · 4 samples over 64 ranks, 4 micro-batches each.
    assert_eq!(rl.algorithm.published_minibatch_size(&rl.rollout), 32);
    assert_eq!(rl.algorithm.micro_batches_per_minibatch(&rl.rollout), 64 * 4);
    assert!(rl.train.drop_last);
    assert_eq!((rl.model.path.as_str(), rl.data.unusable), ("runs/sft-alignxplore-plus", Unusable::Skip));
    assert!(rl.optimizer.weight_decay == 0.01 && rl.optimizer.no_decay.is_empty());
    // The forward and backward passes are bf16; the weights that the optimizer updates and its moments are fp32.
    assert_eq!((rl.model.dtype, rl.optimizer.state), (Dtype::Bf16, StateDtype::Fp32));

    let sft: SftConfig = configs::load(&folder.join("sft-alignxplore-plus.toml"), &[]).unwrap();
    assert_eq!((sft.train.batch_size, sft.train.epochs), (BatchSize::Published, 4));
    assert_eq!((sft.checkpoint.every, sft.checkpoint.every_epoch), (0, true));
    assert_eq!((sft.model.dtype, sft.optimizer.state), (Dtype::Bf16, StateDtype::Model));
}

#[test]
fn a_new_model_and_an_evaluation_survive_being_written_out() {
    let mut sft = SftConfig {
        model: ModelStart {
            shape: Some(ModelShape { rope_theta: 12345.678, init_std: 1e-9, ..ModelShape::default() }),
            tokenizer: Some(TokenizerConfig { path: Some("a \"quoted\" folder".into()), vocab_size: 300 }),
            ..ModelStart::default()
        },
        ..SftConfig::default()
    };
    sft.data.train = "rows.jsonl".into();
    sft.optimizer.lr = 1.0 / 3.0;
    round_trip(&sft);
    let model = ModelSource { path: "p".into(), ..ModelSource::default() };
    round_trip(&EvalConfig {
        users: "users.jsonl".into(),
        models: vec![EvalModel { name: "rl".into(), model: model.clone() }],
        judges: vec![EvalJudge { name: "second".into(), judge: JudgeConfig { model, ..JudgeConfig::default() } }],
        ..EvalConfig::default()
    });
}

#[test]
fn every_default_is_written_out() {
    let text = configs::parse::<SftConfig>("my.toml", "[model]\npath='p'\n[data]\ntrain='r'", &[])
        .unwrap()
        .resolved()
        .unwrap();
    for line in
        ["seed = 42", "epochs = 4", "schedule = \"cosine\"", "warmup_ratio = 0.1", "keep_last = 2", "device = \"auto\""]
    {
        assert!(text.lines().any(|written| written == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn the_quickstart_gives_runs_that_pass_their_own_checks() {
    let quick = QuickstartConfig::default();
    let (rows, tokenizer) = (Path::new("rows.jsonl"), Path::new("tokenizer"));
    for judge in [&quick.judge, &quick.second_judge] {
        let run = quick.judge_training(judge, rows, tokenizer);
        run.check().unwrap();
        assert_eq!((run.data.train.as_path(), run.data.shuffle, &run.train), (rows, false, &judge.train));
        assert_eq!(run.model.shape.as_ref(), Some(&judge.shape));
    }
    let run = quick.base_training(rows, tokenizer);
    run.check().unwrap();
    assert_eq!((run.model.shape.as_ref(), &run.optimizer), (Some(&quick.policy), &quick.reading.optimizer));
    let run = quick.rl_training(rows, Path::new("policy"), Path::new("judge"));
    run.check().unwrap();
    assert_eq!((run.model.path.as_str(), run.judge.model.path.as_str()), ("policy", "judge"));
    assert_eq!((run.judge.mode, &run.rollout), (quick.judge.ask.mode, &quick.rl.rollout));
}

#[test]
fn a_file_over_the_quickstart_changes_only_what_it_names() {
    let text = "[judge.optimizer]\nlr = 1e-3\n";
    let config: QuickstartConfig = configs::parse("my.toml", text, &[]).unwrap();
    let mut expected = QuickstartConfig::default();
    expected.judge.optimizer.lr = 1e-3;
    assert_eq!(config, expected);
}
