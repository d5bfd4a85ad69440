//! The memory of each rank, compared with the formulas of docs/scaling.md.

use std::fs;

use serde_json::Value as Json;

use crate::job::{Job, ended};

/// Returns the number of elements of the tiny model's param units: embedding, two layers, head (final norm; the projection is
/// tied).
fn parts(job: &Job) -> Vec<usize> {
    let config: Json = serde_json::from_str(&fs::read_to_string(job.path("tiny/config.json")).unwrap()).unwrap();
    let n = |key: &str| config[key].as_u64().unwrap() as usize;
    let (c, i, d) = (n("hidden_size"), n("intermediate_size"), n("head_dim"));
    let (q, kv) = (n("num_attention_heads") * d, n("num_key_value_heads") * d);
    let layer = c * (q + 2 * kv) + q * c + 3 * c * i + 2 * c + 2 * d;
    [vec![n("vocab_size") * c], vec![layer; n("num_hidden_layers")], vec![c]].concat()
}

/// Returns the total size of a rank's shards: 1/W of each unit, rounded up to a multiple of 32 elements.
fn share(parts: &[usize], ranks: usize) -> usize {
    parts.iter().map(|n| n.div_ceil(ranks).next_multiple_of(32)).sum()
}

#[test]
fn each_rank_holds_what_the_formulas_say() {
    let job = Job::new();
    let parts = parts(&job);
    let all: usize = parts.iter().sum();
    let few = ["train.max_steps=1", "validation.every=0", "checkpoint.state=false"];
    // Bytes per element of weights; of gradients and moments; of master weights.
    for (dtype, width, state, master) in [("fp32", 4, 4, 0), ("bf16", 2, 4, 4)] {
        for ranks in [2, 4] {
            let share = share(&parts, ranks);
            let level = |sharding: &str| match sharding {
                "replicate" => [all * width, all * state, all * (2 * state + master)],
                "optimizer" => [all * width, share * state, share * (2 * state + master)],
                _ => [share * width, share * state, share * (2 * state + master)],
            };
            for sharding in ["replicate", "optimizer", "full"] {
                let name = format!("{sharding}-{ranks}-{dtype}");
                let own = [format!("parallel.sharding={sharding}"), format!("model.dtype={dtype}")];
                let set: Vec<&str> = few.into_iter().chain(own.iter().map(String::as_str)).collect();
                job.launch(ranks, &name, &set, &[], &[]).well();
                let text = fs::read_to_string(job.folder(&name).join("ranks.json")).unwrap();
                let held: Vec<Json> = serde_json::from_str(&text).unwrap();
                assert_eq!(held.len(), ranks);
                for (rank, held) in held.iter().enumerate() {
                    assert_eq!(held["rank"], rank);
                    let found =
                        ["parameters", "gradients", "optimizer"].map(|key| held[key].as_u64().unwrap() as usize);
                    assert_eq!(found, level(sharding), "{name}, rank {rank}");
                }
            }
        }
    }
}

/// The memory plan of `xplore config check` for a judge in the process.
#[test]
fn the_plan_counts_a_judge_where_it_is() {
    let job = Job::new();
    let choice = r#"{"chosen": "warm stories", "rejected": "dry reports"}"#;
    let history = [choice; 8].join(",");
    fs::write(job.path("users.jsonl"), format!("{{\"uid\": \"p\", \"history\": [{history}], \"mid_position\": 4}}\n"))
        .unwrap();
    let model = job.path("tiny").display().to_string();
    let text = format!(
        "[model]\npath = '{model}'\ndevice = 'cpu'\n[judge.model]\npath = '{model}'\ndevice = 'cpu'\nkv_cache_gib = 64.0\n[data]\n\
         train = '{}'\n",
        job.path("users.jsonl").display()
    );
    fs::write(job.path("rl.toml"), text).unwrap();
    let plan = |ranks: &str, placement: &str| {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("xplore"));
        command.args(["config", "check", "--kind", "rl", "--ranks", ranks]).arg(job.path("rl.toml"));
        ended(command.args(["--set", &format!("judge.placement={placement}")]), &[]).well().said
    };
    let resident = plan("3", "resident");
    assert!(resident.contains("KV cache of up to 64.00 GiB, resident"), "{resident}");
    // 3 · 64 GiB of KV cache exceed the memory of a machine that runs these tests; otherwise the output says that they fit.
    assert!(resident.contains("3 rank(s) need "), "{resident}");
    let offloaded = plan("1", "offload");
    assert!(offloaded.contains("offloaded to host memory except while it judges"), "{offloaded}");
    let needed = |plan: &str| {
        let after = plan.split("rank(s) need ").nth(1).unwrap();
        let (number, unit) = after.split_once(' ').unwrap();
        number.parse::<f64>().unwrap() * if unit.starts_with("MiB") { 1.0 / 1024.0 } else { 1.0 }
    };
    assert!(needed(&plan("1", "resident")) - needed(&offloaded) > 63.9);
    assert!(needed(&resident) > 2.9 * needed(&plan("1", "resident")));
}
