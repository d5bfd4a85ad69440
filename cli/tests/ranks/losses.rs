//! The losses of several ranks equal those of one process.

use std::fs;

use serde_json::{Value as Json, json};
use tolerance::assert_within;

use crate::job::{Job, same};

#[test]
fn every_sharding_gives_the_losses_of_one_process() {
    let job = Job::new();
    job.alone("alone", &[], &[]).well();
    let expected = job.metrics("alone");
    assert_eq!(expected.len(), 20);
    for (sharding, ranks) in
        [("replicate", 2), ("replicate", 4), ("optimizer", 2), ("optimizer", 4), ("full", 2), ("full", 4), ("full", 1)]
    {
        let name = format!("{sharding}-{ranks}");
        job.launch(ranks, &name, &[&format!("parallel.sharding={sharding}")], &[], &[]).well();
        same(&job.metrics(&name), &expected, 1e-5);
    }
}

#[test]
fn so_do_hybrid_sharding_recomputation_averages_and_adapters() {
    let job = Job::new();
    job.alone("alone", &[], &[]).well();
    let expected = job.metrics("alone");
    let full = "parallel.sharding=full";
    job.launch(4, "hybrid", &[full, "parallel.hsdp_shard_size=2"], &[], &[]).well();
    same(&job.metrics("hybrid"), &expected, 1e-5);
    job.launch(2, "again", &[full, "train.activation_checkpointing_every=1"], &[], &[]).well();
    same(&job.metrics("again"), &expected, 1e-5);

    // The validation loss after the last step is that of the averaged weights.
    let average = ["optimizer.ema_decay=0.9"];
    job.alone("average-alone", &average, &[]).well();
    let last = |name: &str| job.metrics(name)[19]["validation/loss"].as_f64().unwrap();
    assert!((last("average-alone") / last("alone") - 1.0).abs() > 1e-3, "the average makes no difference");
    for sharding in ["optimizer", "full"] {
        let (name, own) = (format!("average-{sharding}"), format!("parallel.sharding={sharding}"));
        job.launch(2, &name, &[average[0], &own], &[], &[]).well();
        same(&job.metrics(&name), &job.metrics("average-alone"), 1e-5);
    }

    // The dropout mask does not depend on the rank or micro-batch of a row.
    let lora = ["lora.rank=4", "lora.dora=true", "lora.dropout=0.2"];
    job.alone("lora-alone", &lora, &[]).well();
    let expected = job.metrics("lora-alone");
    for sharding in ["replicate", "full"] {
        let name = format!("lora-{sharding}");
        let own = format!("parallel.sharding={sharding}");
        let set = [&lora[..], &[&own]].concat();
        job.launch(2, &name, &set, &[], &[]).well();
        same(&job.metrics(&name), &expected, 1e-5);
    }
}

/// In bf16 the order of summation matters: with fp32 state, 20 losses agree to one part in 500 here (bf16 has 8 bits of precision,
/// a loss is a mean over a few hundred tokens), and gradient norms agree to 2 %.
#[test]
fn in_bf16_losses_agree_within_its_rounding() {
    let job = Job::new();
    let bf16 = ["model.dtype=bf16"];
    job.alone("alone", &bf16, &[]).well();
    let expected = job.metrics("alone");
    for sharding in ["optimizer", "full"] {
        let own = format!("parallel.sharding={sharding}");
        let set = [&bf16[..], &[&own]].concat();
        job.launch(2, sharding, &set, &[], &[]).well();
        for (found, expected) in job.metrics(sharding).iter().zip(&expected) {
            for (key, within) in [("loss", 2e-3), ("grad_norm", 2e-2)] {
                let (a, b) = (found[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
                assert_within!(a - b, within * b, "{sharding}, step {}: {key} {a}, alone {b}", found["step"]);
            }
        }
    }
}

/// The users whose summaries are judged are distributed over the ranks (with more ranks than users, some ranks have none). The
/// shares equal those of one process exactly.
#[test]
fn summaries_are_judged_by_all_ranks_as_by_one() {
    let job = Job::new();
    let choice = |chosen: &str, rejected: &str| json!({"query": "which?", "chosen": chosen, "rejected": rejected});
    let histories = [2, 5, 3];
    let user = |(uid, n): (usize, &usize)| {
        let history: Vec<Json> = (0..*n).map(|i| choice(["warm space", "stories"][i % 2], "dry finance")).collect();
        json!({"uid": uid.to_string(), "history": history, "targets": [choice("space", "finance"), choice("long", "dry")],
               "transfer": vec![choice("warm", "dry"); uid % 2]})
    };
    let users = job.path("users.jsonl");
    fs::write(&users, histories.iter().enumerate().map(|p| user(p).to_string() + "\n").collect::<String>()).unwrap();
    let summaries = format!(
        "validation.summaries={{users='{}', prompts='compact', sampling={{max_new_tokens=8}}, settings=['full', \
         'streaming'], judge={{model={{path='{}', dtype='fp32', device='cpu'}}, prompts='compact', mode='forced'}}}}",
        users.display(),
        job.model.display()
    );
    let set = [&summaries, "train.max_steps=4", "validation.every=2"];
    job.alone("alone", &set, &[]).well();
    let of = |name: &str| -> Vec<Json> {
        let keys = ["accuracy", "accuracy_low", "accuracy_high", "transfer_accuracy"];
        let lines = job.metrics(name);
        lines.iter().flat_map(|line| keys.map(|key| line[format!("validation/{key}")].clone())).collect()
    };
    let expected = of("alone");
    assert_eq!(expected.iter().filter(|value| value.is_number()).count(), 8, "{expected:?}");
    for (name, ranks, sharding) in [("replicate", 2, "replicate"), ("full", 4, "full")] {
        job.launch(ranks, name, &[&set[..], &[&format!("parallel.sharding={sharding}")]].concat(), &[], &[]).well();
        assert_eq!(of(name), expected, "{name}");
    }
}
