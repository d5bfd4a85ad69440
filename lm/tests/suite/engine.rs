//! Continuous batching: many requests, little memory, scores, prefix caching, preemption.

use chat::Sampling;
use lm::engine::{Limits, Request, ScoreRequest};
use lm::generate::{Generated, Generator};
use lm::head::{Targets, score};
use lm::sampling::uniform;
use lm::{Decoder, Family, Packed};
use tch::{Device, Kind, Tensor};
use torch_ext::{CpuLevel, EmulatedGpu};

use crate::fixtures::{CONTEXT, decoder, ids, spec, weights};

pub fn limits(max_num_seqs: usize, max_num_batched_tokens: usize, blocks: usize) -> Limits {
    // 3 layers, 2 key/value heads of 32 channels, fp32, 32 positions per block.
    let block = 3 * 2 * 2 * 32 * 4 * 32;
    Limits { max_num_seqs, max_num_batched_tokens, cache_bytes: blocks * block, retain_bytes: 2 * block }
}

pub fn request(prompt: Vec<u32>, seeds: Vec<u64>, max_tokens: usize) -> Request {
    Request { prompt, seeds, sampling: Sampling::all(max_tokens), top_logprobs: 0 }
}

pub fn generate(model: &Decoder, limits: Limits, requests: &[Request]) -> Vec<Vec<Generated>> {
    Generator { model, stop_ids: &[], limits }.generate(requests, None).unwrap()
}

/// Compares two runs of the same requests on different kernels, and counts the samples that differ by a tie: the random number is
/// so close to the boundary between two tokens that rounding decides. At the first token that differs, the boundary is computed
/// in an ordinary pass. Any other difference is a failure.
fn ties(what: &str, model: &Decoder, requests: &[Request], a: &[Vec<Generated>], b: &[Vec<Generated>]) -> usize {
    let mut ties = 0;
    for (request, (a, b)) in requests.iter().zip(a.iter().zip(b)) {
        for (seed, (a, b)) in request.seeds.iter().zip(a.iter().zip(b)) {
            let Some(at) = (0..a.ids.len()).find(|&i| a.ids.get(i) != b.ids.get(i)) else { continue };
            let text = [&request.prompt[..], &a.ids[..at]].concat();
            let batch = Packed::new(&[text], CONTEXT, Device::Cpu).unwrap();
            let logits = tch::no_grad(|| model.logits(&batch)).unwrap().get(-1);
            let borders: Vec<f64> = Vec::try_from(logits.softmax(-1, Kind::Double).cumsum(-1, Kind::Double)).unwrap();
            let u = uniform(*seed, at as u64);
            let (first, second) = (a.ids[at].min(b.ids[at]) as usize, a.ids[at].max(b.ids[at]) as usize);
            let (end_of_first, begin_of_second) = (borders[first], borders[second - 1]);
            assert!(
                (end_of_first - u).abs() < 1e-5 && (begin_of_second - u).abs() < 1e-5,
                "{what}: tokens {first} and {second} at {at}, drawn by {u}, border {end_of_first} to {begin_of_second}"
            );
            ties += 1;
        }
    }
    ties
}

/// Requests of any length: many with a common prefix, some with several samples, some with a temperature of their own.
fn crowd(count: u64) -> Vec<Request> {
    (0..count)
        .map(|i| {
            let random = |what: u64, below: f64| (uniform(900 + what, i) * below) as usize;
            // One of five prefixes of up to 80 tokens, then a suffix of its own.
            let mut prompt = ids(950 + random(0, 5.0) as u64, random(1, 80.0));
            prompt.extend(ids(1000 + i, 1 + random(2, 40.0)));
            let seeds = (0..1 + random(3, 3.0) as u64).map(|s| i * 10 + s).collect();
            let mut made = request(prompt, seeds, 1 + random(4, 60.0));
            if i % 4 == 0 {
                made.sampling.temperature = 0.6;
                made.top_logprobs = 3;
            }
            made
        })
        .collect()
}

/// Asserts that two lists of results have the same tokens and the same bits of log-probabilities.
fn same_answers(what: &str, found: &[Vec<Generated>], expected: &[Vec<Generated>]) {
    let bits = |logprobs: &[f32]| logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (request, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}, request {request}");
        for (sample, (a, b)) in found.iter().zip(expected).enumerate() {
            assert_eq!(a.ids, b.ids, "{what}, request {request}, sample {sample}: tokens");
            assert_eq!(bits(&a.logprobs), bits(&b.logprobs), "{what}, request {request}, sample {sample}");
            for (a, b) in a.top.iter().flatten().zip(b.top.iter().flatten()) {
                assert_eq!((a.0, a.1.to_bits()), (b.0, b.1.to_bits()), "{what}, request {request}: alternatives");
            }
        }
    }
}

/// 500 requests in six configurations. The results of a request are the same to the bit alone and with any neighbors, in any
/// order, after preemption, with any cache size and any token budget of a pass, on one thread and on several. They also equal
/// the results of the forward pass of training.
fn batching_changes_nothing(family: Family, kind: Kind) {
    if kind == Kind::BFloat16 && CpuLevel::batch_dependent_bf16() {
        eprintln!("large products of bf16 go to libtorch on this CPU; XPLORE_CPU=avx512 keeps them here");
        return;
    }
    let mut params = weights(&spec(family, true), 7);
    params.flat = params.flat.to_kind(kind);
    let model = Decoder::new(params);
    let requests = crowd(500);
    let together = generate(&model, Limits::default(), &requests);
    for (request, samples) in requests.iter().zip(&together) {
        assert_eq!(samples.len(), request.seeds.len());
        assert!(samples.iter().all(|s| s.ids.len() == request.sampling.max_tokens));
    }
    let reversed: Vec<Request> = requests.iter().rev().cloned().collect();
    let mut other = generate(&model, limits(17, 200, 400), &reversed);
    other.reverse();
    same_answers("another order", &other, &together);
    // The longest sequences need seven blocks, so sequences are preempted and resumed.
    let block = block_bytes(&model);
    let cramped =
        Limits { max_num_seqs: 64, max_num_batched_tokens: 64, cache_bytes: 10 * block, retain_bytes: 2 * block };
    let generator = Generator { model: &model, stop_ids: &[], limits: cramped };
    let (cramped, counts) = generator.generate_counted(&requests, None).unwrap();
    assert!(counts.preemptions > 20, "{counts:?}");
    same_answers("little memory", &cramped, &together);
    same_answers("prompts in crumbs", &generate(&model, limits(9, 13, 400), &requests), &together);
    let threads = tch::get_num_threads();
    tch::set_num_threads(1);
    let single = generate(&model, limits(40, 500, 400), &requests);
    tch::set_num_threads(threads);
    same_answers("one thread", &single, &together);
    let alone: Vec<_> =
        requests.iter().flat_map(|r| generate(&model, Limits::default(), std::slice::from_ref(r))).collect();
    same_answers("alone", &alone, &together);
    training_agrees(&model, &requests[..60], &together);
}

/// Asserts that the packed forward pass of training computes the log-probabilities of the samples.
fn training_agrees(model: &Decoder, requests: &[Request], generated: &[Vec<Generated>]) {
    for (request, samples) in requests.iter().zip(generated) {
        let whole: Vec<Vec<u32>> = samples.iter().map(|s| [&request.prompt[..], &s.ids].concat()).collect();
        let batch = Packed::new(&whole, CONTEXT, Device::Cpu).unwrap();
        let hidden = model.forward(&batch).unwrap();
        let (mut rows, mut targets, mut first) = (vec![], vec![], 0);
        for (tokens, sample) in whole.iter().zip(samples) {
            let prompt = request.prompt.len();
            rows.extend((prompt..tokens.len()).map(|at| (first + at - 1) as i64));
            targets.extend(sample.ids.iter().map(|&id| i64::from(id)));
            first += tokens.len();
        }
        let at = Targets { rows: Tensor::from_slice(&rows), targets: Tensor::from_slice(&targets) };
        let scores = score(model, &hidden, &at, request.sampling.temperature).unwrap();
        let trained: Vec<u32> = Vec::<f32>::try_from(scores.logprobs).unwrap().into_iter().map(f32::to_bits).collect();
        let sampled: Vec<u32> = samples.iter().flat_map(|s| &s.logprobs).map(|x| x.to_bits()).collect();
        assert_eq!(sampled, trained, "training computes other log-probabilities than generation");
    }
}

fn block_bytes(model: &Decoder) -> usize {
    let spec = model.spec();
    let elements = 2 * spec.num_hidden_layers as i64 * spec.num_key_value_heads * spec.head_dim * 32;
    elements as usize * model.params.flat.kind().elt_size_in_bytes()
}

macro_rules! for_each_model {
    ($($name:ident: $family:expr, $kind:expr;)*) => {$(
        #[test]
        fn $name() {
            batching_changes_nothing($family, $kind);
        }
    )*};
}
for_each_model! {
    batching_changes_nothing_qwen3: Family::Qwen3, Kind::Float;
    batching_changes_nothing_qwen3_bf16: Family::Qwen3, Kind::BFloat16;
    batching_changes_nothing_qwen2: Family::Qwen2, Kind::Float;
    batching_changes_nothing_qwen2_bf16: Family::Qwen2, Kind::BFloat16;
    batching_changes_nothing_llama: Family::Llama, Kind::Float;
    batching_changes_nothing_llama_bf16: Family::Llama, Kind::BFloat16;
}

/// Runs the emulated GPU kernels on prompts, chunks of prompts, single tokens and shared prefixes: the same tokens are sampled.
#[test]
fn the_kernels_for_gpus_generate_the_same() {
    let model = decoder(Family::Qwen3, true);
    let requests = crowd(4);
    let expected = generate(&model, limits(4, 40, 40), &requests);
    let gpu = EmulatedGpu::new();
    let found = generate(&model, limits(4, 40, 40), &requests);
    let started = gpu.started();
    drop(gpu);
    for kernel in ["rms_norm_f32", "qk_norm_rope_f32", "write_paged_f32", "paged_attention_2_1_f32", "swiglu_f32"] {
        assert!(started.iter().any(|name| name == kernel), "{kernel} was not started");
    }
    assert!(ties("on a GPU", &model, &requests, &expected, &found) <= 1);
}

/// Prompts that are kept for further samples can fill the whole cache. They are then evicted and read again, without a deadlock.
#[test]
fn kept_prompts_give_way() {
    let model = decoder(Family::Qwen3, true);
    let requests: Vec<Request> = (0..6).map(|i| request(ids(60 + i, 40), (0..5).collect(), 10)).collect();
    let roomy = generate(&model, Limits::default(), &requests);
    for blocks in 2..8 {
        for max_num_seqs in [1, 2, 9] {
            let cramped = generate(&model, limits(max_num_seqs, 1000, blocks), &requests);
            same_answers(&format!("{blocks} blocks, {max_num_seqs} rows"), &cramped, &roomy);
        }
    }
}

#[test]
fn common_beginnings_are_read_once() {
    let model = decoder(Family::Qwen3, true);
    let beginning = ids(1, 96);
    let requests: Vec<Request> =
        (0..10).map(|i| request([beginning.clone(), ids(10 + i, 5)].concat(), vec![0, 1], 3)).collect();
    let generator = Generator { model: &model, stop_ids: &[], limits: Limits::default() };
    let (_, counts) = generator.generate_counted(&requests, None).unwrap();
    // The first request reads 101 tokens. Nine find three blocks of 32 and read 5 each. No second sample reads anything.
    assert_eq!((counts.prompt_tokens, counts.shared_tokens), (101 + 9 * 5, 9 * 96));
    assert_eq!(counts.sampled_tokens, 60);
}

#[test]
fn scores_are_those_of_a_plain_pass_whatever_is_shared() {
    for family in Family::ALL {
        let model = decoder(family, true);
        let beginning = ids(2, 70);
        let requests: Vec<ScoreRequest> = (0..12)
            .map(|i| {
                let ids =
                    [beginning[..if i % 3 == 0 { 33 } else { 70 }].to_vec(), ids(30 + i, 4 + i as usize)].concat();
                let from = [1, 40, ids.len()][i as usize % 3].min(ids.len());
                let candidates = if i % 2 == 0 || from == ids.len() { vec![5, 77, 5] } else { vec![] };
                ScoreRequest { ids, from, candidates }
            })
            .collect();
        for limits in [Limits::default(), limits(4, 25, 9)] {
            let generator = Generator { model: &model, stop_ids: &[], limits };
            let (scores, counts) = generator.score(&requests).unwrap();
            assert!(counts.shared_tokens > 0, "nothing was shared");
            for (request, scored) in requests.iter().zip(scores) {
                let (n, from) = (request.ids.len() as i64, request.from as i64);
                assert_eq!(
                    (scored.logprobs.len() as i64, scored.candidates.len()),
                    (n - from, request.candidates.len())
                );
                let batch = Packed::new(&[&request.ids], CONTEXT, Device::Cpu).unwrap();
                let logits = tch::no_grad(|| model.logits(&batch)).unwrap().log_softmax(-1, Kind::Float);
                let expect = |at: i64, id: u32| logits.double_value(&[at, i64::from(id)]);
                for (i, logprob) in scored.logprobs.iter().enumerate() {
                    let at = from + i as i64;
                    assert!((f64::from(*logprob) - expect(at - 1, request.ids[at as usize])).abs() < 1e-4);
                }
                for (id, logprob) in request.candidates.iter().zip(&scored.candidates) {
                    assert!((f64::from(*logprob) - expect(n - 1, *id)).abs() < 1e-4);
                }
            }
        }
    }
}

/// Log-probabilities of samples under temperature, top-p and a penalty equal those of a separate pass at that temperature.
#[test]
fn reported_log_probabilities_are_those_of_a_fresh_pass() {
    for family in [Family::Llama, Family::Qwen3] {
        reported_are_fresh(&decoder(family, false));
    }
}

fn reported_are_fresh(model: &Decoder) {
    let sampling = Sampling { temperature: 0.7, top_p: 0.8, repetition_penalty: 1.3, ..Sampling::all(50) };
    let prompt = ids(3, 40);
    let requests = [Request { sampling, ..request(prompt.clone(), vec![1, 2, 3], 50) }];
    for sample in &generate(model, Limits::default(), &requests)[0] {
        let whole: Vec<u32> = prompt.iter().chain(&sample.ids).copied().collect();
        let batch = Packed::new(&[whole], CONTEXT, Device::Cpu).unwrap();
        let hidden = model.forward(&batch).unwrap();
        let at = Targets {
            rows: Tensor::arange_start(39, 89, (Kind::Int64, Device::Cpu)),
            targets: batch.ids.narrow(0, 40, 50),
        };
        let fresh: Vec<f32> = Vec::try_from(score(model, &hidden, &at, 0.7).unwrap().logprobs).unwrap();
        for (a, b) in sample.logprobs.iter().zip(fresh) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
}

/// Compares 20,000 first tokens with the exact distribution of each setting. Pearson's chi-square is taken over the cells with at
/// least five expected samples, with the rest as one cell. The bound of mean + 5 deviations + 20 is exceeded by chance less than
/// once in 100,000 runs for the numbers of cells that occur here (3 to 400).
#[test]
fn draws_of_every_setting_follow_its_distribution() {
    let model = decoder(Family::Qwen3, true);
    let prompt = ids(4, 30);
    let batch = Packed::new(&[&prompt], CONTEXT, Device::Cpu).unwrap();
    let logits: Vec<f32> = Vec::try_from(tch::no_grad(|| model.logits(&batch)).unwrap().get(29)).unwrap();
    let all = Sampling::all(1);
    for sampling in [
        all.clone(),
        Sampling { temperature: 0.6, ..all.clone() },
        Sampling { temperature: 1.7, ..all.clone() },
        Sampling { top_k: 5, ..all.clone() },
        Sampling { top_p: 0.7, ..all.clone() },
        Sampling { min_p: 0.2, ..all.clone() },
        Sampling { repetition_penalty: 2.5, ..all.clone() },
        Sampling { temperature: 0.8, top_k: 30, top_p: 0.9, min_p: 0.05, repetition_penalty: 1.2, ..all },
    ] {
        let expected = exact(&logits, &prompt, &sampling);
        let n = 20_000u64;
        let requests = [Request { sampling: sampling.clone(), ..request(prompt.clone(), (0..n).collect(), 1) }];
        let mut seen = vec![0f64; expected.len()];
        for sample in &generate(&model, Limits::default(), &requests)[0] {
            seen[sample.ids[0] as usize] += 1.0;
        }
        let (mut chi, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
        let mut cell = |seen: f64, expected: f64| {
            chi += (seen - expected).powi(2) / expected;
            cells += 1.0;
        };
        for (s, p) in seen.iter().zip(&expected) {
            let e = p * n as f64;
            if *p == 0.0 {
                assert_eq!(*s, 0.0, "{sampling:?}: a token outside the kept set was drawn");
            } else if e < 5.0 {
                rest = (rest.0 + s, rest.1 + e);
            } else {
                cell(*s, e);
            }
        }
        if rest.1 > 5.0 {
            cell(rest.0, rest.1);
        }
        let bound = cells + 5.0 * (2.0f64 * cells).sqrt() + 20.0;
        assert!(chi < bound, "{sampling:?}: chi-square {chi:.1} over {cells} cells, bound {bound:.1}");
    }
}

/// Returns the distribution of a setting in float64, implemented independently, in the order of transformers.
fn exact(logits: &[f32], prompt: &[u32], s: &Sampling) -> Vec<f64> {
    let mut x: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    for (id, l) in x.iter_mut().enumerate() {
        if prompt.contains(&(id as u32)) {
            *l = if *l < 0.0 { *l * s.repetition_penalty } else { *l / s.repetition_penalty };
        }
        *l /= s.temperature;
    }
    let softmax = |x: &[f64], kept: &[bool]| {
        let best = x.iter().copied().fold(f64::MIN, f64::max);
        let p: Vec<f64> = x.iter().zip(kept).map(|(l, k)| if *k { (l - best).exp() } else { 0.0 }).collect();
        let total: f64 = p.iter().sum();
        p.into_iter().map(|p| p / total).collect::<Vec<f64>>()
    };
    let mut kept = vec![true; x.len()];
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
    if s.top_k > 0 {
        order[s.top_k..].iter().for_each(|&i| kept[i] = false);
    }
    let p = softmax(&x, &kept);
    let mut before = 0.0;
    for &i in &order {
        kept[i] &= before < s.top_p;
        before += p[i];
    }
    let p = softmax(&x, &kept);
    let best = p.iter().copied().fold(0.0, f64::max);
    for (i, p) in p.iter().enumerate() {
        kept[i] &= *p >= s.min_p * best;
    }
    softmax(&x, &kept)
}
