//! Keys of `[optimizer]`.

use std::collections::HashMap;

use fixtures::sft_runs::read_run;
use tch::{Kind, Tensor};
use tolerance::{assert_within, largest};

use crate::fixture::{Bench, same, weights};

#[test]
fn the_rate_follows_its_schedule() {
    let bench = Bench::new();
    let rates = |name: &str, set: &[&str]| -> Vec<f64> {
        let run = bench.fit(name, &[&["optimizer.lr=1e-3", "train.max_steps=10"], set].concat());
        run.column("lr").iter().map(|lr| lr / 1e-3).collect()
    };
    let schedule = |name: &str| format!("optimizer.schedule={name}");
    same(&rates("constant", &[&schedule("constant")]), &[1.0; 10]);
    let linear = rates("linear", &[&schedule("linear"), "optimizer.warmup_steps=2"]);
    same(&linear, &[0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]);
    // The number of warmup updates is rounded up: 0.11 of 10 updates is 2.
    same(&linear, &rates("ratio", &[&schedule("linear"), "optimizer.warmup_ratio=0.11"]));
    let cosine = rates("cosine", &[&schedule("cosine"), "optimizer.min_lr_ratio=0.5"]);
    same(&[cosine[0], cosine[5]], &[1.0, 0.75]);
    assert!(cosine.is_sorted_by(|a, b| a > b) && cosine[9] > 0.5 && cosine[9] < 0.52, "{cosine:?}");
    let wsd = rates("wsd", &[&schedule("wsd"), "optimizer.decay_ratio=0.3", "optimizer.min_lr_ratio=0.1"]);
    same(&wsd, &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.4]);
}

/// Returns the maximum difference between two models, over the tensors whose names contain `part`.
fn apart(a: &HashMap<String, Tensor>, b: &HashMap<String, Tensor>, part: &str) -> f64 {
    let names: Vec<&String> = a.keys().filter(|name| name.contains(part)).collect();
    assert!(!names.is_empty(), "no tensor of {part}");
    largest(names.iter().map(|&name| (&a[name] - &b[name]).abs().max().double_value(&[])))
}

#[test]
fn weight_decay_shrinks_all_but_what_is_exempt() {
    let bench = Bench::new();
    let after = |name: &str, set: &[&str]| {
        let set = [&["train.max_steps=1", "optimizer.lr=1e-2"], set].concat();
        weights(&bench.fit(name, &set).last())
    };
    let plain = after("plain", &["optimizer.weight_decay=0"]);
    let begin = weights(&bench.model);
    for (name, exempt, spared) in [
        ("usual", None, vec!["norm"]),
        ("none", Some("optimizer.no_decay=[]"), vec![]),
        ("both", Some("optimizer.no_decay=[\"norm\",\"embedding\"]"), vec!["norm", "embed_tokens"]),
    ] {
        let mut set = vec!["optimizer.weight_decay=5"];
        set.extend(exempt);
        let decayed = after(name, &set);
        for part in ["norm", "embed_tokens", "q_proj", "down_proj"] {
            // One update at learning rate 1e-2 decays each weight by 5 %.
            let takes = if spared.contains(&part) { 0.0 } else { 0.05 };
            let expected = plain.iter().map(|(name, w)| (name.clone(), w - &begin[name] * takes)).collect();
            let off = apart(&decayed, &expected, part);
            assert_within!(off, 1e-6, "{name}: {part} decayed otherwise than by {takes}");
        }
    }
}

/// Returns the norm of one update of all weights, and the norm of its gradient.
fn moved(bench: &Bench, name: &str, set: &[&str]) -> (f64, f64) {
    // With such a large eps, the update is a plain step of 0.1 along the gradient.
    let set =
        [&["train.max_steps=1", "optimizer.lr=1e5", "optimizer.eps=1e6", "optimizer.betas=[0.0,0.0]"], set].concat();
    let run = bench.fit(name, &set);
    let (begin, end) = (weights(&bench.model), weights(&run.last()));
    let squares = begin.iter().map(|(name, w)| (&end[name] - w).square().sum(Kind::Double).double_value(&[]));
    (squares.sum::<f64>().sqrt(), run.column("grad_norm")[0])
}

#[test]
fn a_gradient_is_clipped_to_the_norm_and_counted_before() {
    let bench = Bench::new();
    let (whole, norm) = moved(&bench, "whole", &["optimizer.grad_clip=0"]);
    assert_within!(whole / (0.1 * norm) - 1.0, 1e-3, "a step of {whole} with a gradient of {norm}");
    let (clipped, same_norm) = moved(&bench, "clipped", &["optimizer.grad_clip=0.25"]);
    assert_eq!(norm, same_norm, "the norm is that before clipping");
    assert!(norm > 0.25, "{norm}");
    assert_within!(clipped / 0.025 - 1.0, 1e-3, "a step of {clipped} with a gradient cut to 0.25");
    // A gradient below the threshold is not clipped.
    same(&[moved(&bench, "below", &["optimizer.grad_clip=1e6"]).0], &[whole]);
    let (short, _) = moved(&bench, "short", &["optimizer.grad_clip=0", "optimizer.eps=1e7"]);
    assert_within!(short / (0.01 * norm) - 1.0, 1e-2, "ten times the eps, a tenth of the step: {short}");
}

#[test]
fn betas_matter_from_the_second_update_on() {
    let bench = Bench::new();
    let losses = |name: &str, betas: &str| bench.fit(name, &[betas, "train.max_steps=3"]).column("loss");
    let usual = losses("usual", "optimizer.betas=[0.9,0.999]");
    for (name, betas) in [("first", "optimizer.betas=[0.1,0.999]"), ("second", "optimizer.betas=[0.9,0.1]")] {
        let other = losses(name, betas);
        // Up to rounding, the first update does not depend on the betas.
        assert_within!(usual[1] - other[1], 1e-4, "{usual:?} {other:?}");
        assert!((usual[2] - other[2]).abs() > 1e-4, "{usual:?} {other:?}");
    }
}

#[test]
fn muon_updates_the_matrices_of_the_layers_and_adamw_the_rest() {
    let bench = Bench::new();
    let after = |name: &str, steps: usize, set: &[&str]| {
        let steps = format!("train.max_steps={steps}");
        weights(&bench.fit(name, &[&[&steps, "optimizer.lr=1e-2", "optimizer.grad_clip=0"], set].concat()).last())
    };
    const MUON: &str = "optimizer.kind=muon";
    let (adamw, muon) = (after("adamw", 1, &[]), after("muon", 1, &[MUON]));
    for part in ["embed_tokens", "norm"] {
        assert_eq!(apart(&adamw, &muon, part), 0.0, "{part}");
    }
    let begin = weights(&bench.model);
    for part in ["q_proj", "o_proj", "up_proj", "down_proj"] {
        let name = muon.keys().find(|name| name.contains(part)).unwrap();
        let update = &muon[name] - &begin[name];
        let rms = update.square().mean(Kind::Double).double_value(&[]).sqrt() / 1e-2;
        // Singular values near 1 give a root mean square of 0.2 times the learning rate; those of a low-rank gradient stay near 0.
        assert!(rms > 0.02 && rms < 0.25, "{name}: {rms}");
        assert!(apart(&adamw, &muon, part) > 1e-3, "{part}");
    }
    // In the first update the momentum scales all values equally, which orthogonalization undoes.
    const MOMENTUM: &str = "optimizer.muon.momentum=0.5";
    let first = apart(&muon, &after("first", 1, &[MUON, MOMENTUM]), "proj");
    assert_within!(first, 1e-4, "the first update depends on the momentum");
    let third = apart(&after("third", 3, &[MUON]), &after("fast", 3, &[MUON, MOMENTUM]), "proj");
    assert!(third > 1e-3, "the third update does not depend on the momentum: {third}");
    let iterations = apart(&muon, &after("twice", 1, &[MUON, "optimizer.muon.ns_steps=2"]), "proj");
    assert!(iterations > 1e-4, "the update does not depend on ns_steps: {iterations}");
    let bf16 =
        weights(&bench.fit("bf16", &["train.max_steps=1", MUON, "optimizer.lr=1e-2", "model.dtype=bf16"]).last());
    assert_eq!(bf16.values().next().unwrap().kind(), Kind::BFloat16);
}

#[test]
fn small_updates_of_bf16_weights_are_lost_only_where_the_state_is_the_models() {
    let bench = Bench::new();
    let norms_moved = |name: &str, state: &str| {
        let run = bench.fit(name, &["model.dtype=bf16", "optimizer.lr=5e-4", "train.max_steps=20", state]);
        let begin = weights(&bench.model);
        let same_kind = |w: &Tensor| w.to_kind(Kind::Float);
        let end = weights(&run.last()).iter().map(|(name, w)| (name.clone(), same_kind(w))).collect();
        apart(&end, &begin.iter().map(|(name, w)| (name.clone(), same_kind(w))).collect(), "norm")
    };
    // A bf16 value near 1 changes by at least 0.004. One update is at most 0.0005, and 20 updates sum to 0.01.
    assert_eq!(norms_moved("model", "optimizer.state=model"), 0.0);
    let moved = norms_moved("fp32", "optimizer.state=fp32");
    assert!(moved > 0.003 && moved < 0.02, "{moved}");
}

#[test]
fn a_run_whose_gradients_are_never_finite_ends_with_a_word_on_it() {
    let bench = Bench::new();
    let (code, said) = bench.start("wild", &["optimizer.lr=1e30", "optimizer.max_skipped_steps=3"], &[]);
    assert_eq!(code, 1, "{said}");
    for word in ["error: ", "not finite 3 times in a row", "step 4", "optimizer.lr", "optimizer.max_skipped_steps"] {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
    let run = read_run(&bench.path(""), "wild");
    assert_eq!(run.column("skipped"), [0.0, 1.0, 1.0]);
    assert_eq!(run.column("skipped_so_far"), [0.0, 1.0, 2.0]);
}
