//! The generation engine compared with forward passes without a cache, and with itself in other batches.

use std::collections::HashMap;

use chat::{FinishReason, Sampling};
use lm::generate::{Generated, Generator, Limits, Request};
use lm::head::{Targets, score};
use lm::{Decoder, Family, Packed};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

use crate::fixtures::{CONTEXT, VARIANTS, close, decoder, ids};

fn sampling(temperature: f64, max_tokens: usize) -> Sampling {
    Sampling { temperature, ..Sampling::all(max_tokens) }
}

fn request(prompt: Vec<u32>, seeds: Vec<u64>, sampling: Sampling) -> Request {
    Request { prompt, seeds, sampling, top_logprobs: 0 }
}

fn run(model: &Decoder, stop_ids: &[u32], requests: &[Request]) -> Vec<Vec<Generated>> {
    Generator { model, stop_ids, limits: Limits::default() }.generate(requests, None).unwrap()
}

fn tokens(samples: &[Generated]) -> Vec<Vec<u32>> {
    samples.iter().map(|s| s.ids.clone()).collect()
}

/// Returns the log-probabilities of the whole vocabulary after each token of `ids`, from one pass without a cache.
fn forward(model: &Decoder, ids: &[u32], temperature: f64) -> Tensor {
    let batch = Packed::new(&[ids], CONTEXT, Device::Cpu).unwrap();
    (tch::no_grad(|| model.logits(&batch)).unwrap() / temperature).log_softmax(-1, Kind::Float)
}

/// Generates 70 tokens, so that the cache grows twice (32, 64, 128 positions).
#[test]
fn greedy_tokens_are_the_argmax_of_a_full_forward_pass() {
    for (family, tied) in VARIANTS {
        let model = decoder(family, tied);
        let prompts = [ids(1, 3), ids(2, 40), ids(3, 1)];
        let requests: Vec<Request> =
            prompts.iter().map(|p| request(p.clone(), vec![0], Sampling::greedy(70))).collect();
        for (prompt, samples) in prompts.iter().zip(run(&model, &[], &requests)) {
            let sample = &samples[0];
            assert_eq!((sample.ids.len(), sample.finish), (70, FinishReason::Length));
            // One pass over the finished text gives the argmax of every step, because the model is causal.
            let whole: Vec<u32> = prompt.iter().chain(&sample.ids).copied().collect();
            let own = forward(&model, &whole, 1.0).narrow(0, prompt.len() as i64 - 1, 70);
            let best: Vec<i64> = Vec::try_from(own.argmax(-1, false)).unwrap();
            assert_eq!(best, sample.ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), "{family:?} {tied}");
            let picked = own.gather(-1, &Tensor::from_slice(&best).unsqueeze(-1), false).squeeze_dim(-1);
            close("greedy log-probabilities", &Tensor::from_slice(&sample.logprobs), &picked, 1e-4);
        }
    }
}

#[test]
fn log_probabilities_of_samples_are_those_of_a_scoring_pass() {
    for (family, tied) in VARIANTS {
        let model = decoder(family, tied);
        for temperature in [1.0, 0.7] {
            let requests = [request(ids(4, 20), vec![1, 2, 3], sampling(temperature, 50)), {
                // Truncation changes what is sampled, not the reported log-probabilities.
                let truncated = Sampling { top_k: 20, top_p: 0.9, ..sampling(temperature, 40) };
                request(ids(5, 7), vec![4, 5], truncated)
            }];
            for (request, samples) in requests.iter().zip(run(&model, &[], &requests)) {
                for sample in samples {
                    let whole: Vec<u32> = request.prompt.iter().chain(&sample.ids).copied().collect();
                    let batch = Packed::new(&[whole], CONTEXT, Device::Cpu).unwrap();
                    let hidden = model.forward(&batch).unwrap();
                    let first = request.prompt.len() as i64 - 1;
                    let n = sample.ids.len() as i64;
                    let at = Targets {
                        rows: Tensor::arange_start(first, first + n, (Kind::Int64, Device::Cpu)),
                        targets: batch.ids.narrow(0, first + 1, n),
                    };
                    let scores = score(&model, &hidden, &at, temperature).unwrap();
                    let what = format!("{family:?}, tied {tied}, temperature {temperature}");
                    close(&what, &Tensor::from_slice(&sample.logprobs), &scores.logprobs, 1e-4);
                }
            }
        }
    }
}

/// The mean log-probability of samples is minus the entropy. Its standard deviation over 2,000 independent samples is known, and
/// the test allows five of them (a false alarm for one in 1.7 million seeds).
#[test]
fn draws_follow_the_models_distribution() {
    let model = decoder(Family::Qwen3, true);
    for temperature in [1.0, 0.7] {
        let (prompt, n) = (ids(6, 12), 2000u64);
        let samples = run(&model, &[], &[request(prompt.clone(), (0..n).collect(), sampling(temperature, 1))]);
        let own = forward(&model, &prompt, temperature).get(11).to_kind(Kind::Double);
        let p = own.exp();
        let mean = (&p * &own).sum(Kind::Double).double_value(&[]);
        let variance = (&p * &own * &own).sum(Kind::Double).double_value(&[]) - mean * mean;
        let drawn = samples[0].iter().map(|s| own.double_value(&[i64::from(s.ids[0])])).sum::<f64>() / n as f64;
        let z = (drawn - mean) / (variance / n as f64).sqrt();
        assert!(z.abs() < 5.0, "temperature {temperature}: {drawn:.4}, expected {mean:.4} ({z:.1} deviations)");
    }
}

#[test]
fn truncation_keeps_draws_inside_the_kept_set() {
    let model = decoder(Family::Llama, false);
    let prompt = ids(7, 9);
    let with = |top_k, top_p| {
        let s = Sampling { top_k, top_p, ..sampling(1.0, 1) };
        tokens(&run(&model, &[], &[request(prompt.clone(), (0..300).collect(), s)])[0]).concat()
    };
    let own = forward(&model, &prompt, 1.0).get(8);
    let (_, order) = own.sort(0, true);
    let order: Vec<i64> = Vec::try_from(order).unwrap();
    assert!(with(1, 1.0).iter().all(|&id| i64::from(id) == order[0]), "top_k 1 is greedy");
    let mut seen: Vec<i64> = with(4, 1.0).into_iter().map(i64::from).collect();
    seen.sort_unstable();
    seen.dedup();
    let mut best = order[..4].to_vec();
    best.sort_unstable();
    // The fourth most likely token occurs in one of 300 tries, unless its probability among the four is below one in fifty.
    assert_eq!(seen, best);
    let nucleus = with(0, 0.5);
    let mass = |id: u32| {
        let place = order.iter().position(|&o| o == i64::from(id)).unwrap();
        order[..place].iter().map(|&o| own.double_value(&[o]).exp()).sum::<f64>()
    };
    assert!(nucleus.iter().all(|&id| mass(id) < 0.5), "every kept token begins below top_p");
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours() {
    let model = decoder(Family::Qwen3, true);
    let stop = [ids(8, 1)[0], 17, 99, 250];
    let with = |seed: u64, length, seeds: &[u64], max| {
        request(ids(seed, length), seeds.to_vec(), Sampling { top_p: 0.95, ..sampling(0.9, max) })
    };
    let requests =
        [with(10, 30, &[5, 6, 7, 8], 60), with(11, 4, &[5], 35), with(12, 90, &[1, 2, 3], 50), with(13, 1, &[9], 3)];
    let together = run(&model, &stop, &requests);
    let ends: Vec<usize> = together.iter().flatten().map(|s| s.ids.len()).collect();
    assert!(ends.iter().any(|n| *n < 35) && ends.iter().any(|n| *n > 32), "rows should leave at different times");

    for (request, samples) in requests.iter().zip(&together) {
        for (i, &seed) in request.seeds.iter().enumerate() {
            let alone = run(&model, &stop, &[Request { seeds: vec![seed], ..request.clone() }]);
            assert_eq!(alone[0][0].ids, samples[i].ids, "drawn alone");
            assert_eq!(alone[0][0].finish, samples[i].finish);
        }
    }
    let reversed: Vec<Request> = requests
        .iter()
        .rev()
        .map(|r| Request { seeds: r.seeds.iter().rev().copied().collect(), ..r.clone() })
        .collect();
    for (samples, other) in together.iter().zip(run(&model, &stop, &reversed).iter().rev()) {
        let other: Vec<Vec<u32>> = tokens(other).into_iter().rev().collect();
        assert_eq!(tokens(samples), other, "in another order");
    }
    let roomy = Limits::default();
    for limits in [
        Limits { max_num_seqs: 1, max_num_batched_tokens: 1, ..roomy },
        Limits { max_num_seqs: 5, max_num_batched_tokens: 100_000, ..roomy },
        Limits { max_num_seqs: 512, max_num_batched_tokens: 94, ..roomy },
        Limits { max_num_batched_tokens: 7, ..roomy },
    ] {
        let cut = Generator { model: &model, stop_ids: &stop, limits }.generate(&requests, None).unwrap();
        for (samples, other) in together.iter().zip(&cut) {
            assert_eq!(tokens(samples), tokens(other), "under {limits:?}");
        }
    }
}

#[test]
fn different_seeds_differ() {
    let model = decoder(Family::Qwen3, false);
    let samples = run(&model, &[], &[request(ids(14, 5), (0..8).collect(), sampling(1.0, 12))]);
    let mut drawn = tokens(&samples[0]);
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 8);
}

#[test]
fn a_stop_token_ends_its_row_and_no_other() {
    let model = decoder(Family::Llama, true);
    let requests: Vec<Request> = (0..3).map(|i| request(ids(20 + i, 6), vec![i, i + 50], sampling(1.0, 40))).collect();
    let free = run(&model, &[], &requests);
    let stop = free[1][0].ids[9];
    for (before, after) in free.iter().flatten().zip(run(&model, &[stop], &requests).iter().flatten()) {
        match before.ids.iter().position(|id| *id == stop) {
            Some(at) => {
                assert_eq!(after.ids, before.ids[..=at], "the stop token is the last one kept");
                assert_eq!(after.finish, FinishReason::Stop);
            }
            None => assert_eq!((&after.ids, after.finish), (&before.ids, FinishReason::Length)),
        }
        assert_eq!(after.logprobs.len(), after.ids.len());
    }
}

#[test]
fn the_hook_sees_every_new_token_of_its_request() {
    let model = decoder(Family::Llama, true);
    let requests =
        [request(ids(30, 4), vec![1], sampling(1.0, 20)), request(ids(31, 4), vec![2, 3], sampling(1.0, 20))];
    // One sequence at a time, so that request indices count across batches.
    let limits = Limits { max_num_seqs: 1, ..Limits::default() };
    let generator = Generator { model: &model, stop_ids: &[], limits };
    let mut seen: HashMap<(usize, usize), Vec<u32>> = HashMap::new();
    let mut hook = |request: usize, sample: usize, id: u32| {
        let ids = seen.entry((request, sample)).or_default();
        ids.push(id);
        ids.len() == 5 + request
    };
    let samples = generator.generate(&requests, Some(&mut hook)).unwrap();
    for (request, samples) in samples.iter().enumerate() {
        for (sample, generated) in samples.iter().enumerate() {
            assert_eq!(seen[&(request, sample)], generated.ids);
        }
    }
    let ends: Vec<Vec<(usize, FinishReason)>> =
        samples.iter().map(|r| r.iter().map(|s| (s.ids.len(), s.finish)).collect()).collect();
    assert_eq!(ends, [vec![(5, FinishReason::Stop)], vec![(6, FinishReason::Stop); 2]]);
}

#[test]
fn finished_requests_are_handed_over_while_others_are_generated() {
    let model = decoder(Family::Qwen3, true);
    let requests = [request(ids(30, 4), vec![1, 2], sampling(1.0, 20)), request(ids(31, 4), vec![3], sampling(1.0, 4))];
    let generator = Generator { model: &model, stop_ids: &[], limits: Limits::default() };
    let mut handed_over: Vec<(usize, Vec<Vec<u32>>)> = Vec::new();
    let mut hook = |request: usize, samples: &[Generated]| handed_over.push((request, tokens(samples)));
    let samples = generator.generate_with(&requests, Some(&mut hook)).unwrap();
    // The second request is shorter, and finished first.
    assert_eq!(handed_over, [(1, tokens(&samples[1])), (0, tokens(&samples[0]))]);
    assert_eq!(tokens(&samples[0]), tokens(&generator.generate_with(&requests, None).unwrap()[0]));
}

#[test]
fn the_context_ends_a_row() {
    let model = decoder(Family::Qwen3, true);
    let ends = |length: usize, max_tokens| {
        let samples = run(&model, &[], &[request(ids(40, length), vec![1], sampling(1.0, max_tokens))]);
        (samples[0][0].ids.len(), samples[0][0].finish)
    };
    assert_eq!(ends(CONTEXT - 20, 100), (20, FinishReason::Length));
    assert_eq!(ends(CONTEXT - 20, 20), (20, FinishReason::Length));
    assert_eq!(ends(CONTEXT - 20, 1), (1, FinishReason::Length));
    assert_eq!(ends(CONTEXT - 1, 100), (1, FinishReason::Length));
}

#[test]
fn prompts_that_leave_no_room_are_refused() {
    let model = decoder(Family::Qwen3, true);
    let generator = Generator { model: &model, stop_ids: &[], limits: Limits::default() };
    for length in [0, CONTEXT, CONTEXT + 1] {
        let fine = request(ids(41, 3), vec![1], sampling(1.0, 2));
        let error = generator.generate(&[fine, request(ids(41, length), vec![1], sampling(1.0, 2))], None);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("request 1") && error.contains(&format!("{length} tokens")), "{error}");
    }
}

#[test]
fn alternatives_are_the_models_own_likeliest_tokens() {
    let model = decoder(Family::Qwen3, false);
    let (prompt, n) = (ids(42, 10), 12);
    let mut with = request(prompt.clone(), vec![3], sampling(0.5, n));
    with.top_logprobs = 7;
    let without = request(ids(43, 3), vec![4], sampling(1.0, 20));
    let samples = run(&model, &[], &[without, with]);
    let sample = &samples[1][0];
    let whole: Vec<u32> = prompt.iter().chain(&sample.ids).copied().collect();
    let own = forward(&model, &whole, 1.0).narrow(0, 9, n as i64);
    let (values, best) = own.topk(7, -1, true, true);
    assert_eq!(sample.top.len(), n);
    for (step, top) in sample.top.iter().enumerate() {
        let at = |t: &Tensor, i: usize| t.double_value(&[step as i64, i as i64]);
        assert_eq!(top.len(), 8, "the drawn token and seven alternatives");
        assert_eq!(top[0].0, sample.ids[step]);
        assert_within!(f64::from(top[0].1) - at(&own, sample.ids[step] as usize), 1e-4);
        for (i, (id, logprob)) in top[1..].iter().enumerate() {
            assert_eq!(f64::from(*id), at(&best, i));
            assert_within!(f64::from(*logprob) - at(&values, i), 1e-4);
        }
    }
}
