//! A synthetic run folder, similar to that of a quickstart.

use std::f64::consts::E;
use std::fs;
use std::path::Path;

use configs::eval::Setting;
use evals::TargetKind;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use report::{AccuracyRow, Example, GainRow, JudgeRole, Model};
use serde_json::{Value, json};

/// Every file that a run can have.
pub const FILES: [&str; 5] = ["metrics.jsonl", "eval.json", "eval-gains.json", "examples.json", "config.toml"];

/// Writes a complete run; `skill` shifts the accuracy of RL.
pub fn run(folder: &Path, seed: u64, skill: f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    fs::create_dir_all(folder).unwrap();
    let write = |file: &str, text: String| fs::write(folder.join(file), text).unwrap();
    let lines: Vec<String> = metrics(&mut rng, skill).iter().map(Value::to_string).collect();
    write("metrics.jsonl", lines.join("\n") + "\n");
    write("eval.json", serde_json::to_string_pretty(&eval(&mut rng, skill)).unwrap());
    write("eval-gains.json", serde_json::to_string_pretty(&gains(skill)).unwrap());
    write("examples.json", serde_json::to_string_pretty(&examples()).unwrap());
    write("config.toml", "seed = 0\n\n[rl]\nsteps = 120\ngroup = 4\nlearning_rate = 3e-4 # > 0 & < 1\n".into());
}

fn metrics(rng: &mut ChaCha8Rng, skill: f64) -> Vec<Value> {
    let mut rows = Vec::new();
    for (phase, steps, floor) in [("judge", 900u64, 0.12), ("second_judge", 700, 0.15), ("sft", 300, 0.8)] {
        for step in 1..=steps {
            let x = step as f64 / steps as f64;
            let loss = floor + 5.0 * E.powf(-7.0 * x) + rng.random_range(-0.05..0.05);
            rows.push(json!({
                "phase": phase, "step": step, "loss": loss, "grad_norm": 0.6 + loss * rng.random_range(0.1..0.4),
                "lr": 1e-3 * (1.0 - x), "trained_tokens": 4096 * step,
                "tokens_per_second": 21_000.0 + rng.random_range(-900.0..900.0), "seconds": 0.19,
            }));
        }
    }
    for step in 1..=120u64 {
        let x = step as f64 / 120.0;
        let judge = 0.6 + (0.16 + skill) * (1.0 - E.powf(-3.0 * x)) + rng.random_range(-0.03..0.03);
        let format = (0.93 + 0.07 * x.sqrt() + rng.random_range(-0.02..0.02f64)).min(1.0);
        rows.push(json!({
            "phase": "rl", "step": step, "reward/judge": judge, "reward/format": format, "reward/total": judge * format,
            "reward/stage1": judge - 0.01, "reward/stage2": judge + 0.012, "credit/picked": 0.9 * judge,
            "credit/unpicked": 0.45, "entropy": 0.55 - 0.35 * x + rng.random_range(-0.02..0.02),
            "length/mean": 110.0 + 30.0 * x + rng.random_range(-4.0..4.0),
            "length/max": 180.0 + rng.random_range(0.0..60.0), "length/summary": 40.0 + 14.0 * x + rng.random_range(-1.0..1.0),
            "truncated": 0.01 * rng.random_range(0.0..1.0), "clip/high": 0.002 * rng.random_range(0.0..1.0),
            "clip/low": 0.001 * rng.random_range(0.0..1.0), "ratio/max": 1.0 + rng.random_range(0.1..0.6),
            "loss": rng.random_range(-0.02..0.02), "grad_norm": rng.random_range(0.3..0.9), "lr": 3e-4,
            "zero_variance": 0.05 + 0.1 * x, "time/rollout": 1.2 + rng.random_range(0.0..0.2),
            "time/judge": 0.5 + rng.random_range(0.0..0.1), "time/update": 0.9 + rng.random_range(0.0..0.15),
        }));
    }
    rows
}

fn eval(rng: &mut ChaCha8Rng, skill: f64) -> Vec<AccuracyRow> {
    let mut rows = Vec::new();
    for targets in [TargetKind::InDomain, TargetKind::Transfer] {
        for judge in [JudgeRole::Training, JudgeRole::Second] {
            rows.push(row((Model::None, Setting::Direct, targets, judge), 0.53));
            for setting in [Setting::Full, Setting::Streaming] {
                let harder = if setting == Setting::Streaming { 0.02 } else { 0.0 };
                let other = if targets == TargetKind::Transfer { 0.03 } else { 0.0 };
                let means = [
                    (Model::None, 0.5),
                    (Model::Random, 0.51),
                    (Model::Sft, 0.64),
                    (Model::Rl, 0.77 + skill),
                    (Model::Oracle, 0.91),
                ];
                for (model, mean) in means {
                    let bound = matches!(model, Model::None | Model::Random | Model::Oracle);
                    let loss = if bound { 0.0 } else { harder + other };
                    let accuracy = mean - loss + rng.random_range(-0.01..0.01);
                    rows.push(row((model, setting, targets, judge), accuracy));
                }
            }
        }
    }
    rows
}

fn row((model, setting, targets, judge): (Model, Setting, TargetKind, JudgeRole), accuracy: f64) -> AccuracyRow {
    let half = 1.96 * (accuracy * (1.0 - accuracy) / 240.0).sqrt();
    let (ci_low, ci_high) = (accuracy - half, (accuracy + half).min(1.0));
    AccuracyRow { model, setting, targets, judge, accuracy, ci_low, ci_high, users: 120, targets_judged: 480 }
}

fn gains(skill: f64) -> Vec<GainRow> {
    let mut rows = Vec::new();
    for targets in [TargetKind::InDomain, TargetKind::Transfer] {
        for judge in [JudgeRole::Training, JudgeRole::Second] {
            for setting in [Setting::Full, Setting::Streaming] {
                let gain = 0.12 + skill - if judge == JudgeRole::Second { 0.09 } else { 0.0 };
                let (baseline, model) = (Model::Sft, Model::Rl);
                let (ci_low, ci_high) = (gain - 0.033, gain + 0.034);
                rows.push(GainRow { setting, targets, judge, baseline, model, gain, ci_low, ci_high, users: 120 });
            }
        }
    }
    rows
}

fn examples() -> Vec<Example> {
    let text = json!([
        {"uid": "user-0412", "truth": "likes long, in-depth pieces; science over sports; a dry tone; dislikes listicles",
         "history": ["News: \"Ten quick facts about owls\" passed over for \"How barn owls hear, in depth\"",
                     "Product: the 900-page field guide rather than the pocket card", "Reply: the detailed one, not the short one"],
         "sft": {"reasoning": "depth: 3 for, 0 against\ntopic science: 1 for", "summary": "The user likes science. They prefer formal items."},
         "rl": {"reasoning": "depth: 3 for, 0 against\ntopic science: 1 for\ntone dry: 2 for\nlists: 2 against",
                "summary": "Prefers in-depth, long items on science. Likes a dry tone. Avoids listicles and sports."}},
        {"uid": "<script>alert('uid')</script>", "truth": "cheap & cheerful; <b>short</b> replies",
         "history": ["Reply: <img src=x onerror=alert(1)>"],
         "sft": {"summary": "</p><script>alert('summary')</script>"},
         "rl": {"summary": "Short replies, see https://example.com/a?b=1&c=2"}}
    ]);
    serde_json::from_value(text).unwrap()
}
