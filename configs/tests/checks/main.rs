//! Every invalid value is rejected with its key; the boundary value that is still valid is accepted.

mod external;

use configs::rl::reward::{FormatGate, MalformedReward};
use configs::{AblateConfig, EvalConfig, JudgeMode, QuickstartConfig, RlConfig, RunConfig, SftConfig};

const SFT: &str = "[model]\npath='p'\n[data]\ntrain='r'\n";
const NEW: &str = "[model.shape]\nlayers=1\n[model.tokenizer]\nvocab_size=300\n[data]\ntrain='r'\n";
const RL: &str = "[model]\npath='p'\n[judge.model]\npath='j'\n[data]\ntrain='r'\n";
const EVAL: &str = "users='p'\n[[models]]\nname='a'\nmodel.path='m'\n[[judges]]\nname='b'\njudge.model.path='j'\n";

/// Asserts that `refused` fails at `key` with an error that contains `expected`, and that `accepted` loads.
#[track_caller]
fn check<T: RunConfig>(text: &str, key: &str, expected: &str, refused: &str, accepted: &str) {
    let load = |value: &str| configs::parse::<T>("my.toml", text, &[value.to_string()]);
    let Err(error) = load(refused) else { panic!("{refused} was accepted") };
    let error = error.to_string();
    assert!(error.contains(&format!("`{key}` ")) && error.contains(expected), "{refused}: {error}");
    if let Err(error) = load(accepted) {
        panic!("{accepted} was refused: {error}");
    }
}

#[test]
fn sft() {
    for (key, expected, refused, accepted) in [
        ("name", "a folder name", "''", "a"),
        ("name", "a folder name", "a/b", "a b"),
        ("data.max_length", "at least 2", "1", "2"),
        ("train.epochs", "at least 1", "0", "1"),
        ("data.validation_share", "below 1", "1", "0.5"),
        ("train.batch_size", "at least 1", "0", "1"),
        ("train.batch_size", "a whole number, 0 or more, or \"published\"", "publised", "published"),
        ("train.batch_size", "a whole number, 0 or more, or \"published\"", "-1", "64"),
        ("train.batch_tokens", "0 when batch_size is set", "100", "0"),
        ("train.micro_batch_tokens", "at least 1", "0", "1"),
        ("optimizer.lr", "finite number above 0", "0", "1e-9"),
        ("optimizer.lr", "finite number above 0", "inf", "1"),
        ("optimizer.lr", "finite number above 0", "nan", "1"),
        ("optimizer.eps", "finite number above 0", "0", "1e-12"),
        ("optimizer.weight_decay", "0 or more", "-0.1", "0"),
        ("optimizer.grad_clip", "0 or more", "-1", "0"),
        ("optimizer.warmup_ratio", "from 0 to 1", "1.1", "1"),
        ("optimizer.min_lr_ratio", "from 0 to 1", "-0.1", "0"),
        ("optimizer.decay_ratio", "from 0 to 1", "2", "1"),
        ("optimizer.ema_decay", "to below 1", "1", "0.999"),
        ("optimizer.max_skipped_steps", "at least 1", "0", "1"),
        ("optimizer.muon.momentum", "below 1", "1", "0"),
        ("optimizer.muon.ns_steps", "at least 1", "0", "1"),
        ("metrics.peak_tflops", "0 or more", "-1", "0"),
        ("checkpoint.keep_last", "at least 1", "0", "1"),
        ("parallel.timeout_seconds", "at most 86400", "1e300", "86400"),
        ("parallel.timeout_seconds", "above 0", "0", "0.5"),
        ("parallel.hsdp_shard_size", "sharding = \"full\"", "2", "0"),
    ] {
        check::<SftConfig>(SFT, key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    let mixed = SFT.replace("train='r'", "mix=[{path='a'}, {path='b'}]");
    for (key, expected, refused) in [
        ("data.mix", "or for none", "data.mix=[{path='a'}, {path='b', weight=1}]"),
        ("data.mix[0].path", "a file of SFT rows", "data.mix=[{weight=1}]"),
        ("data.mix[0].weight", "0 or more", "data.mix=[{path='a', weight=-1}]"),
    ] {
        check::<SftConfig>(&mixed, key, expected, refused, "data.mix=[{path='a', weight=1}]");
    }
    let lora = format!("{SFT}[lora]\n");
    for (key, expected, refused, accepted) in [
        ("rank", "at least 1", "0", "1"),
        ("alpha", "above 0", "0", "1"),
        ("dropout", "below 1", "1", "0"),
        ("targets", "no duplicates", "['q_proj', 'q_proj']", "['q_proj']"),
        ("targets", "at least one projection", "[]", "['down_proj']"),
    ] {
        let key = format!("lora.{key}");
        check::<SftConfig>(&lora, &key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    for (key, refused) in [("lora.rank", "8"), ("parallel.sharding", "optimizer"), ("parallel.sharding", "full")] {
        let muon = format!("{SFT}[optimizer]\nkind='muon'\n");
        let accepted = "parallel.sharding=replicate";
        check::<SftConfig>(&muon, "optimizer.kind", "\"adamw\"", &format!("{key}={refused}"), accepted);
    }
    let validated = format!("{SFT}validation='v'\n[validation]\nevery=1\n");
    let refused = "checkpoint.best=validation/accuracy";
    check::<SftConfig>(
        &validated,
        "checkpoint.best",
        "a metric that validation computes",
        refused,
        "checkpoint.best=validation/loss",
    );
    check::<SftConfig>(SFT, "validation.every", "0, or validation data", "validation.every=1", "validation.every=0");
    let share = "data.validation_share=0.1";
    check::<SftConfig>(
        &validated,
        "data.validation_share",
        "0 when data.validation is set",
        share,
        "data.validation_share=0",
    );
    let both = "data.mix=[{path='a'}]";
    check::<SftConfig>(SFT, "data.train", "either train or [[data.mix]]", both, "data.mix=[]");
    let betas = |values: &str| format!("optimizer.betas={values}");
    check::<SftConfig>(SFT, "optimizer.betas[0]", "below 1", &betas("[1, 0.9]"), &betas("[0, 0.9]"));
    check::<SftConfig>(SFT, "optimizer.betas[1]", "below 1", &betas("[0.9, -0.1]"), &betas("[0.9, 0]"));
}

#[test]
fn models_that_generate_and_judges_elsewhere() {
    for (key, expected, refused, accepted) in [
        ("model.kv_cache_gib", "finite number above 0", "0", "0.5"),
        ("model.max_num_seqs", "at least 1", "0", "1"),
        ("judge.model.max_num_batched_tokens", "at least 1", "0", "1"),
    ] {
        check::<RlConfig>(RL, key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    let served = RL.replace("[judge.model]\npath='j'", "[judge.endpoint]\nurl='http://node:1/v1'\nmodel='m'");
    for (key, expected, refused, accepted) in [
        ("judge.endpoint.url", "a URL such as", "node7:8000", "https://a/v1"),
        ("judge.endpoint.model", "the name of the model", "''", "a"),
        ("judge.endpoint.concurrency", "at least 1", "0", "1"),
        ("judge.endpoint.timeout_seconds", "at most 86400", "1e9", "0.5"),
        ("judge.model.path", "either in this process or at an endpoint", "j", "''"),
    ] {
        check::<RlConfig>(&served, key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    check::<RlConfig>(
        &served,
        "judge.model.path",
        "a model folder",
        "judge.endpoint.url=''",
        "judge.endpoint.retries=0",
    );
}

#[test]
fn new_models() {
    for (key, expected, refused, accepted) in [
        ("shape.hidden_size", "at least 1", "0", "1"),
        ("shape.intermediate_size", "at least 1", "0", "1"),
        ("shape.layers", "at least 1", "0", "1"),
        ("shape.heads", "at least 1", "0", "2"),
        ("shape.kv_heads", "a divisor of heads (4)", "3", "4"),
        ("shape.kv_heads", "a divisor of heads (4)", "0", "1"),
        ("shape.head_dim", "even", "33", "34"),
        ("shape.head_dim", "even", "0", "2"),
        ("shape.max_position_embeddings", "at least 1", "0", "1"),
        ("shape.rope_theta", "above 0", "0", "1"),
        ("shape.rms_norm_eps", "above 0", "0", "1"),
        ("shape.init_std", "above 0", "0", "1"),
        ("tokenizer.vocab_size", "at least 272", "271", "272"),
    ] {
        let key = format!("model.{key}");
        check::<SftConfig>(NEW, &key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
}

#[test]
fn rl() {
    for (key, expected, refused, accepted) in [
        ("model.path", "a model folder or a hub id", "''", "p"),
        ("judge.model.path", "a model folder or a hub id", "''", "p"),
        ("judge.choices", "two different non-empty strings", "['A', 'A']", "['A', 'B']"),
        ("judge.choices", "two different non-empty strings", "['', 'B']", "['1', '2']"),
        ("judge.choices", "without leading or trailing spaces", "['A', ' B']", "['yes', 'no']"),
        ("judge.mode", "\"sampled\"", "sample", "sampled"),
        ("judge.temperature", "0 or more", "-0.1", "0"),
        ("judge.top_p", "above 0, at most 1", "0", "1"),
        ("judge.top_k", "a whole number", "-1", "0"),
        ("judge.no_answer", "from 0 to 1", "-0.1", "0"),
        ("judge.no_answer", "from 0 to 1", "1.1", "1"),
        ("data.train", "JSONL", "''", "r"),
        ("data.unusable", "\"skip\"", "drop", "skip"),
        ("rollout.stages", "at least 1", "0", "1"),
        ("rollout.num_generations", "at least 2", "1", "2"),
        ("rollout.users_per_step", "at least 1", "0", "2"),
        ("rollout.cut_at", "a list of length 1 (stages − 1)", "[0.2, 0.4]", "[0.2]"),
        ("rollout.cut_at", "between 0 and 1", "[1.0]", "[0.9]"),
        ("rollout.num_generations_by_stage", "an empty list or 2 numbers", "[4]", "[4, 2]"),
        ("rollout.num_generations_by_stage", "at least 2", "[4, 1]", "[2, 2]"),
        ("rollout.temperature", "above 0", "0", "0.1"),
        ("rollout.top_p", "above 0, at most 1", "0", "1"),
        ("rollout.top_p", "above 0, at most 1", "1.1", "0.1"),
        ("rollout.max_prompt_tokens", "at least 1", "0", "1"),
        ("rollout.max_new_tokens", "at least 1", "0", "1"),
        ("reward.terms", "at least one term", "[]", "[{name = 'short', weight = -1}]"),
        ("reward.gate", "\"published\"", "publised", "published"),
        ("reward.malformed", "a number or \"minimum\"", "minimal", "minimum"),
        ("reward.malformed", "a number or \"minimum\"", "[0]", "-1"),
        ("reward.malformed", "a finite number or \"minimum\"", "inf", "-0.5"),
        ("reward.normalize_eps", "0 or more", "-1e-6", "0"),
        ("reward.warn_after", "a whole number", "-1", "0"),
        ("reward.carry_discount", "from 0 to 1", "1.1", "0"),
        ("reward.carry_baseline", "0 or more", "-1", "0"),
        ("reward.targets_per_stage", "at least 1", "0", "1"),
        ("reward.stage_weights", "2 of them (rollout.stages)", "[1.0]", "[1.0, 0.5]"),
        ("reward.overlong_band", "at most rollout.max_new_tokens", "4097", "4096"),
        ("reward.overlong_penalty", "0 or more", "-1", "0"),
        ("curriculum.band", "the lower first", "[0.8, 0.2]", "[0.2, 0.2]"),
        ("curriculum.outside", "0 or more", "-1", "0"),
        ("algorithm.clip_low", "above 0, at most 1", "0", "0.1"),
        ("algorithm.clip_low", "above 0, at most 1", "1.1", "1"),
        ("algorithm.clip_high", "above 0", "0", "4"),
        ("algorithm.dual_clip", "above 1", "1", "1.5"),
        ("algorithm.dual_clip", "0 for no bound", "0.5", "0"),
        ("algorithm.refill_rounds", "at least 1", "0", "1"),
        ("algorithm.kl.coefficient", "0 or more", "-1", "0"),
        ("algorithm.entropy_coefficient", "0 or more", "-1", "0"),
        ("algorithm.rollout_correction", "recompute", "token", "none"),
        ("algorithm.rollout_correction_cap", "above 0", "0", "1"),
        ("algorithm.num_iterations", "at least 1", "0", "1"),
        ("validation.every", "users to validate on", "5", "0"),
        ("algorithm.advantage_eps", "0 or more", "-1e-6", "0"),
        ("algorithm.aggregation", "\"micro_batch_token_mean\"", "micro_batch_mean", "micro_batch_token_mean"),
        ("algorithm.minibatches", "\"groups\" or \"published\"", "group", "published"),
        ("algorithm.micro_batch_sequences", "at least 1", "0", "1"),
        ("algorithm.published_ranks", "at least 1", "0", "1"),
        ("algorithm.num_minibatches", "at least 1", "0", "1"),
        ("algorithm.num_minibatches", "at most 2048, the groups per step", "2049", "2048"),
        ("algorithm.micro_batch_tokens", "at least 1", "0", "1"),
        ("train.epochs", "at least 1", "0", "1"),
        ("train.drop_last", "true or false", "1", "true"),
        ("optimizer.lr", "above 0", "-1", "1"),
        ("checkpoint.keep_last", "at least 1", "0", "1"),
        ("checkpoint.every_epoch", "set checkpoint.every", "true", "false"),
    ] {
        check::<RlConfig>(RL, key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    let terms = |names: &str| format!("reward.terms=[{names}]");
    let (one, two) = (terms("{name='a'}, {name='a'}"), terms("{name='a'}, {name='b'}"));
    check::<RlConfig>(RL, "reward.terms[1].name", "each name once", &one, &two);
    check::<RlConfig>(RL, "reward.terms[0].weight", "finite", &terms("{weight=inf}"), &terms("{weight=0}"));
    check::<RlConfig>(RL, "reward.terms[0].name", "not set", &terms("{name=''}"), &two);
    let measured = format!("{RL}[validation]\nevery=1\n[validation.summaries]\nusers='p'\njudge.model.path='j'\n");
    let best = "checkpoint.best=validation/loss";
    check::<RlConfig>(&measured, "checkpoint.best", "validation/accuracy", best, "checkpoint.best=validation/accuracy");
    let (negative, zero) = ("reward.stage_weights=[1.0, -1.0]", "reward.stage_weights=[1.0, 0.0]");
    check::<RlConfig>(RL, "reward.stage_weights[1]", "0 or more", negative, zero);
    for mode in ["reasoned", "sampled"] {
        let text = RL.replace("[judge.model]", &format!("[judge]\nmode = '{mode}'\n[judge.model]"));
        check::<RlConfig>(
            &text,
            "judge.max_new_tokens",
            "at least 1",
            "judge.max_new_tokens=0",
            "judge.max_new_tokens=1",
        );
    }
}

/// The keys of a term beside its name, weight and parameters.
#[test]
fn composition_of_terms() {
    let of = |keys: &str| format!("reward.terms=[{{name='judge', {keys}}}, {{name='format'}}]");
    for (key, expected, refused, accepted) in [
        ("requires", "known: judge, format", "requires='fromat'", "requires='format'"),
        ("requires", "another term", "requires='judge'", "requires='format'"),
        ("requires_above", "requires", "requires_above=0.5", "requires='format', requires_above=0.5"),
        ("requires_above", "a finite number", "requires='format', requires_above=inf", "requires_above=0"),
        ("clip", "the lower first", "clip=[1, 0]", "clip=[0, 1]"),
        ("clip", "two finite numbers", "clip=[0, nan]", "clip=[-1.5, 0.5]"),
        ("clip", "a list of 2", "clip=[0]", "clip=[0, 1]"),
        ("normalize", "\"running\"", "normalize='runing'", "normalize='running'"),
        ("task_weights.news", "a finite number", "task_weights={news=inf}", "task_weights={news=-1, shop=0.5}"),
        ("stage_weights[1]", "a finite number", "stage_weights=[1, nan]", "stage_weights=[1, -0.5]"),
        ("stage_weights", "2 of them (rollout.stages)", "stage_weights=[1]", "stage_weights=[1, 0]"),
        ("schedule.kind", "\"piecewise\"", "schedule={kind='piece'}", "schedule={kind='constant'}"),
        ("schedule.kind", "which \"constant\" does not use", "schedule={steps=5}", "schedule={kind='linear', steps=5}"),
        ("schedule.steps", "at least 1", "schedule={kind='cosine'}", "schedule={kind='cosine', steps=1}"),
        (
            "schedule.to",
            "a number other than `from`",
            "schedule={kind='linear', steps=1, from=1}",
            "schedule={kind='linear', steps=1, from=1, to=0}",
        ),
        (
            "schedule.points",
            "only kind = \"piecewise\"",
            "schedule={kind='linear', steps=1, points=[[0, 1]]}",
            "schedule={kind='piecewise', points=[[0, 1]]}",
        ),
        (
            "schedule.points",
            "[step, factor] pairs",
            "schedule={kind='piecewise'}",
            "schedule={kind='piecewise', points=[[5, 0.5]]}",
        ),
        (
            "schedule.points",
            "increasing steps",
            "schedule={kind='piecewise', points=[[9, 0], [9, 1]]}",
            "schedule={kind='piecewise', points=[[9, 0], [10, 1]]}",
        ),
        (
            "schedule.kind",
            "uses points",
            "schedule={kind='piecewise', steps=3, points=[[0, 1]]}",
            "schedule={kind='linear', steps=3, begin=2}",
        ),
    ] {
        check::<RlConfig>(RL, &format!("reward.terms[0].{key}"), expected, &of(refused), &of(accepted));
    }
    let config: RlConfig = configs::parse(
        "my.toml",
        RL,
        &[of("term='brevity', clip=[0, 1], task_weights={news=2}, stage_weights=[1, 0]")],
    )
    .unwrap();
    assert_eq!(configs::parse::<RlConfig>("resolved.toml", &config.resolved().unwrap(), &[]).unwrap(), config);
    assert_eq!(config.reward.terms[0].registered_name(), "brevity");
    assert_eq!(config.reward.terms[1].registered_name(), "format");
}

#[test]
fn published_mini_batches_have_equal_parts() {
    // 4096 responses per stage and 8192 per step; on 64 ranks, 128 per rank and 32 of them in each of 4 mini-batches.
    let text = format!("{RL}[algorithm]\nminibatches='published'\naggregation='micro_batch_token_mean'\n");
    for (key, expected, refused, accepted) in [
        ("published_ranks", "a divisor of 4096, the responses of stage 1 in a step", "60", "32"),
        ("num_minibatches", "a divisor of 128, the responses of a step on each of 64 published_ranks", "3", "2"),
        ("micro_batch_sequences", "a divisor of 32, the responses of a published rank in a mini-batch", "5", "16"),
    ] {
        let key = format!("algorithm.{key}");
        check::<RlConfig>(&text, &key, expected, &format!("{key}={refused}"), &format!("{key}={accepted}"));
    }
    let (refill, drop) = ("algorithm.zero_variance=refill", "algorithm.zero_variance=drop");
    check::<RlConfig>(&text, "algorithm.minibatches", "\"groups\" with zero_variance = \"refill\"", refill, drop);
    let uneven = "rollout.num_generations_by_stage=[4, 3]";
    let expected = "a divisor of 3072, the responses of stage 2";
    let ranks = format!("{text}published_ranks=4096\nmicro_batch_sequences=2\n");
    check::<RlConfig>(&ranks, "algorithm.published_ranks", expected, uneven, "algorithm.published_ranks=1024");
}

#[test]
fn values_of_judge_and_reward_survive_being_written_out() {
    let load = |set: &[&str]| -> RlConfig {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        let config: RlConfig = configs::parse("my.toml", RL, &set).unwrap();
        assert_eq!(configs::parse::<RlConfig>("resolved.toml", &config.resolved().unwrap(), &[]).unwrap(), config);
        config
    };
    let plain = load(&[]);
    assert_eq!((plain.judge.temperature, plain.judge.top_k, plain.judge.top_p), (None, None, None));
    assert_eq!((plain.reward.gate, plain.reward.malformed), (FormatGate::Strict, MalformedReward::Value(0.0)));
    let sampling = ["judge.mode=sampled", "judge.temperature=1", "judge.top_k=0", "judge.top_p=0.5"];
    let config = load(&[&sampling[..], &["reward.malformed=minimum"]].concat());
    assert_eq!((config.judge.temperature, config.judge.top_k, config.judge.top_p), (Some(1.0), Some(0), Some(0.5)));
    assert_eq!((config.judge.mode, config.reward.malformed), (JudgeMode::Sampled, MalformedReward::Minimum));
    assert_eq!(load(&["reward.malformed=-2"]).reward.malformed, MalformedReward::Value(-2.0));
}

/// Without a name, a model is prompted with the set that it carries.
#[test]
fn prompt_sets_need_no_name() {
    let sft: SftConfig = configs::parse("my.toml", SFT, &[]).unwrap();
    let rl: RlConfig = configs::parse("my.toml", RL, &["prompts=".into()]).unwrap();
    let eval: EvalConfig = configs::parse("my.toml", EVAL, &[]).unwrap();
    let judges = [&rl.judge.prompts, &eval.judges[0].judge.prompts];
    assert_eq!([&sft.prompts, &rl.prompts, &eval.prompts], ["", "", ""]);
    assert_eq!(judges, ["", ""]);
    let named: SftConfig = configs::parse("my.toml", SFT, &["prompts=compact".into()]).unwrap();
    assert_eq!(named.prompts, "compact");
    // The quickstart renders its rows itself.
    let error = configs::parse::<QuickstartConfig>("my.toml", "", &["prompts=".into()]).unwrap_err().to_string();
    assert!(error.contains("`prompts` is not set; expected a built-in prompt set"), "{error}");
    let quickstart = QuickstartConfig::default();
    let judge = quickstart.judge_training(&quickstart.judge, "rows".as_ref(), "tokenizer".as_ref());
    let base = quickstart.base_training("rows".as_ref(), "tokenizer".as_ref());
    let sft = quickstart.policy_training("rows".as_ref(), "base".as_ref());
    assert_eq!([judge.prompts, base.prompts, sft.prompts], ["compact"; 3]);
}

#[test]
fn eval() {
    let model = |name: &str| format!("{{name='{name}', model.path='m'}}");
    let list = |names: [&str; 2]| format!("models=[{}, {}]", model(names[0]), model(names[1]));
    for (key, expected, refused, accepted) in [
        ("users", "JSONL", "users=", "users=p"),
        ("settings", "expected one or more of", "settings=[]", "settings=['full']"),
        ("settings", "expected one or more of", "settings=['full', 'full']", "settings=['full', 'direct']"),
        ("sampling.temperature", "0 or more", "sampling.temperature=-1", "sampling.temperature=0"),
        ("sampling.top_p", "above 0", "sampling.top_p=0", "sampling.top_p=1"),
        ("sampling.max_new_tokens", "at least 1", "sampling.max_new_tokens=0", "sampling.max_new_tokens=1"),
        ("references", "true or false", "references=1", "references=false"),
        ("models", "at least one [[models]]", "models=[]", "models=[{name='x', model.path='m'}]"),
        ("models[0].name", "a name for the result tables", "models.0.name=", "models.0.name=x"),
        ("models[1].name", "a unique name", &list(["x", "x"]), &list(["x", "y"])),
        ("models[0].model.path", "a model folder", "models.0.model.path=", "models.0.model.path=x"),
        ("judges", "at least one [[judges]]", "judges=[]", "judges=[{name='x', judge.model.path='m'}]"),
        ("judges[0].judge.model.path", "a model folder", "judges.0.judge.model.path=", "judges.0.judge.model.path=x"),
    ] {
        check::<EvalConfig>(EVAL, key, expected, refused, accepted);
    }
}

#[test]
fn quickstart() {
    for (key, expected, refused, accepted) in [
        ("world.judge_rows", "at least 1", "world.judge_rows=0", "world.judge_rows=1"),
        ("world.second_judge_rows", "at least 1", "world.second_judge_rows=0", "world.second_judge_rows=1"),
        ("world.reading_rows", "at least 1", "world.reading_rows=0", "world.reading_rows=1"),
        ("world.synthesis_users", "at least 1", "world.synthesis_users=0", "world.synthesis_users=1"),
        ("world.rl_users", "at least 1", "world.rl_users=0", "world.rl_users=1"),
        ("world.rl_targets", "at least 1 (rl.reward", "world.rl_targets=0", "world.rl_targets=1"),
        ("world.eval_users", "at least 2", "world.eval_users=1", "world.eval_users=2"),
        ("world.eval_targets", "at least 1", "world.eval_targets=0", "world.eval_targets=1"),
        ("world.eval_transfer_targets", "at least 1", "world.eval_transfer_targets=0", "world.eval_transfer_targets=1"),
        (
            "synthesis.target_probability",
            "0 to below 1",
            "synthesis.target_probability=1.5",
            "synthesis.target_probability=0",
        ),
        ("synthesis.least_targets", "at least 1", "synthesis.least_targets=0", "synthesis.least_targets=1"),
        ("synthesis.most_targets", "least_targets", "synthesis.most_targets=1", "synthesis.most_targets=2"),
        ("synthesis.least_correct", "at least 1", "synthesis.least_correct=0", "synthesis.least_correct=1"),
        (
            "synthesis.least_correct",
            "at most most_targets (5)",
            "synthesis.least_correct=6",
            "synthesis.least_correct=5",
        ),
        ("synthesis.retest", "0 to 1", "synthesis.retest=-1", "synthesis.retest=0"),
        ("pruning.most_signal", "0 to 1", "pruning.most_signal=2", "pruning.most_signal=1"),
        ("pruning.least_probability", "0 to 1", "pruning.least_probability=2", "pruning.least_probability=0"),
        ("pruning.band_end", "0 to 1", "pruning.band_end=2", "pruning.band_end=0.5"),
        ("pruning.band_width", "0 to 1", "pruning.band_width=2", "pruning.band_width=0.1"),
        ("pruning.rule", "\"windowed\"", "pruning.rule=window", "pruning.rule=published"),
        ("pruning.least_window", "at least 1", "pruning.least_window=0", "pruning.least_window=1"),
        ("tokenizer.vocab_size", "at least 272", "tokenizer.vocab_size=9", "tokenizer.vocab_size=999"),
        ("judge.data.train", "remove the key", "judge.data.train=x", "judge.data.train="),
        ("judge.ask.model", "remove the key", "judge.ask.model.path=x", "judge.ask.model.path="),
        ("second_judge.shape.layers", "at least 1", "second_judge.shape.layers=0", "second_judge.shape.layers=1"),
        ("policy.heads", "at least 1", "policy.heads=0", "policy.heads=8"),
        ("sft.data.train", "remove the key", "sft.data.train=x", "sft.data.train="),
        ("sft.train.batch_size", "at least 1", "sft.train.batch_size=0", "sft.train.batch_size=1"),
        ("rl.rollout.num_generations", "at least 2", "rl.rollout.num_generations=1", "rl.rollout.num_generations=2"),
        ("rl.algorithm.num_minibatches", "groups per step", "rl.algorithm.num_minibatches=99999", "rl.train.steps=1"),
        ("rl.optimizer.lr", "above 0", "rl.optimizer.lr=0", "rl.optimizer.lr=1"),
        ("eval.settings", "expected one or more of", "eval.settings=[]", "eval.settings=['full']"),
        ("eval.sampling.top_p", "above 0", "eval.sampling.top_p=2", "eval.sampling.top_p=1"),
    ] {
        check::<QuickstartConfig>("", key, expected, refused, accepted);
    }
}

const ABLATE: &str =
    "base='rl.toml'\neval='eval.toml'\nsteps=2\n[[variants]]\nname='a'\n[[variants]]\nname='b'\nset=['x=1']\n";

#[test]
fn ablation() {
    for (key, expected, refused, accepted) in [
        ("name", "a folder name", "name=a/b", "name=a"),
        ("base", "a configuration of `xplore rl`", "base=", "base=p"),
        ("steps", "at least 1", "steps=0", "steps=1"),
        ("seeds", "one or more seeds", "seeds=[]", "seeds=[0]"),
        ("seeds", "without duplicates", "seeds=[1, 1]", "seeds=[1, 2]"),
        ("design", "[factors]", "design=one_at_a_time", "design=grid"),
        ("design", "\"grid\" or \"one_at_a_time\"", "design=all", "design=grid"),
        ("baseline", "one of \"a\", \"b\"", "baseline=c", "baseline=b"),
        ("training_judges", "without duplicates", "training_judges=['x', 'x']", "training_judges=[]"),
        ("eval", "the path of a configuration", "eval=", "eval=p"),
        ("eval", "or a table", "eval=3", "eval=p"),
        ("variants", "[[variants]] or [factors]", "variants=[]", "variants=[{}]"),
        ("variants", "remove one of the two", "factors={x=[1]}", "factors={}"),
        ("variants[1]", "each name once", "variants.1.name=a", "variants.1.name=c"),
        ("variants[1]", "another name", "variants.1.name=start", "variants.1.name="),
        ("variants[1].set[0]", "in the variant \"b\"; expected key=value", "variants.1.set=['x']", "variants.1.set=[]"),
        ("variants[1].set[0]", "`seeds` of the ablation", "variants.1.set=['seed=3']", "variants.1.set=['seeds=3']"),
        ("variants[1].set[0]", "`steps` of the ablation", "variants.1.set=['train.steps=3']", "variants.1.set=['y=1']"),
    ] {
        check::<AblateConfig>(ABLATE, key, expected, refused, accepted);
    }
    let factors = "base='rl.toml'\neval='eval.toml'\nsteps=2\n[factors]\n'a.b'=[1, 2]\n";
    for (key, expected, refused, accepted) in [
        ("factors.c", "a list of levels", "factors.c=3", "factors.c=[3]"),
        ("factors.c", "a list of levels", "factors.c=[]", "factors.c=[[1], [2]]"),
        ("factors.c.d", "each level once", "factors.c.d=[1, 1]", "factors.c.d=[1, 2]"),
        ("factors.a.b", "each key once", "factors.a.b=[3]", "factors.a.c=[3]"),
        (
            "factors.train.steps",
            "`steps` of the ablation",
            "factors.train.steps=[1, 2]",
            "factors.train.drop_last=[true]",
        ),
    ] {
        check::<AblateConfig>(factors, key, expected, refused, accepted);
    }
    // Another factor has two levels.
    let levels = |count: usize| format!("factors.c={:?}", (0..count).collect::<Vec<_>>());
    let expected = "a grid of 1002 variants; expected at most 1000: fewer levels, or design = \"one_at_a_time\"";
    check::<AblateConfig>(factors, "factors", expected, &levels(501), &levels(500));
    check::<AblateConfig>(factors, "factors", expected, &levels(501), "design=one_at_a_time");
    let section = format!("{}[eval]\n{}", ABLATE.replace("eval='eval.toml'\n", ""), "users='p'\n");
    let judge = "eval.judges=[{name='b', judge.model.path='j'}]";
    check::<AblateConfig>(&section, "eval.judges", "at least one", "name=a", judge);
    let section = format!("{section}[[eval.judges]]\nname='b'\njudge.model.path='j'\n");
    let models = "eval.models=[{name='x', model.path='m'}]";
    check::<AblateConfig>(&section, "eval.models", "no models", models, "eval.models=[]");
    check::<AblateConfig>(&section, "eval.max_users", "a whole number", "eval.max_users=-1", "eval.max_users=1");
    check::<AblateConfig>(&section, "eval.name", "no such key", "eval.name=x", "eval.name=eval");
    check::<AblateConfig>(&section, "eval.out", "no such key", "eval.out=x", "eval.out=runs");
    check::<AblateConfig>(&section, "eval.seed", "`seeds` of the ablation", "eval.seed=3", "eval.seed=42");
    check::<AblateConfig>(&section, "eval.settings", "one or more of", "eval.settings=[]", "eval.settings=['full']");
}

#[test]
fn references_are_the_only_contenders_of_direct() {
    let text = format!("settings=['direct']\n{EVAL}");
    check::<EvalConfig>(&text, "references", "no other contender", "references=false", "references=true");
}

#[test]
fn several_judges() {
    const JUDGES: &str = "[model]\npath='p'\n[data]\ntrain='r'\n[[judges]]\nname='a'\njudge.model.path='j'\n\
                          [[judges]]\nname='b'\njudge.model.path='k'\n";
    for (key, expected, refused, accepted) in [
        ("judge", "either [judge], the short form", "judge.mode=sampled", "judge.mode=forced"),
        ("judges[0].name", "a name, for metrics", "judges.0.name=''", "judges.0.name=c"),
        ("judges[0].name", "letters, digits", "judges.0.name='a/b'", "judges.0.name=a-b_2.c"),
        ("judges[1].name", "a unique name", "judges.1.name=a", "judges.1.name=c"),
        ("judges[1].weight", "0 or more", "judges.1.weight=-1", "judges.1.weight=0"),
        ("judges[1].tasks", "names of tasks", "judges.1.tasks=['']", "judges.1.tasks=['shop']"),
        ("judges[1].prices.prompt", "0 or more", "judges.1.prices.prompt=-1", "judges.1.prices.prompt=0.15"),
        ("judges[1].prices.completion", "0 or more", "judges.1.prices.completion=-1", "judges.1.prices.completion=1"),
        ("judges[1].judge.no_answer", "from 0 to 1", "judges.1.judge.no_answer=2", "judges.1.judge.no_answer=0"),
        ("judges[1].judge.model.path", "a model folder", "judges.1.judge.model.path=''", "judges.1.judge.model.path=x"),
        ("panel", "\"softmin\"", "panel=max", "panel=min"),
        ("panel_temperature", "panel = \"softmin\"", "panel_temperature=0.2", "panel_temperature=0.1"),
    ] {
        check::<RlConfig>(JUDGES, key, expected, refused, accepted);
    }
    for (key, expected, text, refused, accepted) in [
        ("panel", "several [[judges]]", RL.to_owned(), "panel=vote", "panel=mean"),
        (
            "panel_temperature",
            "above 0",
            format!("panel='softmin'\n{JUDGES}"),
            "panel_temperature=0",
            "panel_temperature=1",
        ),
        (
            "judges",
            "a weight above 0",
            JUDGES.replace("name='a'", "name='a'\nweight=0"),
            "judges.1.weight=0",
            "judges.1.weight=2",
        ),
        (
            "judges[1].tasks",
            "a weight above 0",
            JUDGES.replace("name='b'", "name='b'\ntasks=['shop']"),
            "judges.1.weight=0",
            "seed=1",
        ),
        ("panel", "several [[judges]]", format!("panel='min'\n{JUDGES}"), "judges.1.weight=0", "judges.1.weight=1"),
        (
            "reward.transfer_per_stage",
            "a whole number",
            RL.to_owned(),
            "reward.transfer_per_stage=-1",
            "reward.transfer_per_stage=0",
        ),
    ] {
        check::<RlConfig>(&text, key, expected, refused, accepted);
    }
    let loaded = |text: &str| configs::parse::<RlConfig>("my.toml", text, &[]).unwrap();
    let named = |config: &RlConfig| -> Vec<(String, String, String)> {
        let judges = config.panel_judges().into_iter();
        judges.map(|(key, judge)| (key, judge.name, judge.judge.model.path)).collect()
    };
    let several = loaded(JUDGES);
    let row = |key: &str, name: &str, path: &str| (key.to_owned(), name.to_owned(), path.to_owned());
    assert_eq!(named(&several), [row("judges[0].judge", "a", "j"), row("judges[1].judge", "b", "k")]);
    assert_eq!(named(&loaded(RL)), [row("judge", "judge", "j")]);
    // What a run writes out can be read again.
    for text in [JUDGES, RL] {
        let config = loaded(text);
        assert_eq!(loaded(&config.resolved().unwrap()), config);
    }
}
