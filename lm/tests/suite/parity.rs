//! transformers reads folders that this crate writes: logits, gradients, greedy tokens, token ids and chat templates agree.

use std::path::Path;
use std::sync::LazyLock;

use chat::tokenizer::Tokenizer;
use chat::{Message, Sampling};
use lm::generate::{Generator, Limits, Request};
use lm::rope::Rotary;
use lm::{ActivationCheckpointing, Packed, Rope, checkpoint};
use serde_json::{Value as Json, json};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

use crate::fixtures::{CONTEXT, close, close_everywhere, ids, normal, sequences, specimen, specimens, tokenizer};
use crate::gradients::{Weighted, layerwise};
use crate::reference::{Answers, ask};
use crate::texts::{TEXTS, THINKING_TEMPLATE, conversations};

const NEW_TOKENS: usize = 64;
const TEMPERATURE: f64 = 0.7;
/// Head width, RoPE base and last position: those of Qwen3, those of Llama 3, and small ones.
const ROTATIONS: [(i64, f64, usize); 3] = [(128, 1e6, 131_071), (64, 5e5, 131_071), (16, 1e4, 4095)];

fn names() -> Vec<&'static str> {
    specimens().into_iter().map(|(name, _)| name).collect()
}

/// Specimens whose token ids and chats are compared. For a Qwen2 folder, transformers uses the splitting rules of that family in
/// place of those in the file. Published Qwen2 folders contain the same rules in their file.
fn with_words() -> impl Iterator<Item = &'static str> {
    names().into_iter().filter(|name| !name.starts_with("qwen2"))
}

/// Returns a tokenizer. One specimen has a template that uses many features; the others have the template of our own tokenizers.
fn tokenizer_of(name: &str) -> Tokenizer {
    if name != "llama-untied" {
        return tokenizer();
    }
    let folder = tempfile::tempdir().unwrap();
    tokenizer().save(folder.path()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), THINKING_TEMPLATE).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn weights_of_targets() -> Vec<Vec<f32>> {
    let made = sequences().into_iter().enumerate();
    made.map(|(i, s)| Vec::try_from(normal(500 + i as u64, 1.0, &[s.len() as i64 - 1])).unwrap()).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..10).map(|i| ids(300 + i, 1 + 9 * i as usize)).collect()
}

/// Returns every conversation, with and without the generation prompt, under each setting of `thinking`.
fn chats() -> Vec<(Vec<Message>, bool, Option<bool>)> {
    let mut chats = Vec::new();
    for thinking in [None, Some(false), Some(true)] {
        for add_generation_prompt in [false, true] {
            chats.extend(conversations().into_iter().map(|chat| (chat, add_generation_prompt, thinking)));
        }
    }
    chats
}

fn job_of(name: &str, folder: &Path) -> Json {
    let (folder, worded) = (folder.join(name), with_words().any(|n| n == name));
    checkpoint::save(&folder, &specimen(name), &tokenizer_of(name), |_| Ok(())).unwrap();
    let chats: Vec<Json> = chats()
        .into_iter()
        .map(|(messages, add_generation_prompt, enable_thinking)| {
            json!({
                "messages": messages,
                "add_generation_prompt": add_generation_prompt,
                "enable_thinking": enable_thinking,
            })
        })
        .collect();
    json!({
        "name": name,
        "folder": folder,
        "sequences": sequences(),
        "gradients": { "weights": weights_of_targets(), "temperature": TEMPERATURE },
        "greedy": prompts(),
        "new_tokens": NEW_TOKENS,
        "texts": if worded { &TEXTS[..] } else { &[] },
        "chats": if worded { chats } else { vec![] },
    })
}

/// Results of one Python process, which serves all tests of this file.
static ANSWERS: LazyLock<Answers> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let models: Vec<Json> = names().into_iter().map(|name| job_of(name, folder.path())).collect();
    let rope: Vec<Json> = ROTATIONS
        .iter()
        .map(|(head_dim, theta, last)| {
            json!({ "name": format!("rope/{head_dim}-{theta}-{last}"), "head_dim": head_dim, "theta": theta,
                    "positions": (last - 63..=*last).collect::<Vec<_>>() })
        })
        .collect();
    ask(&json!({ "make": [], "models": models, "rope": rope }), folder.path())
});

#[test]
fn transformers_loads_every_tensor_into_the_right_class() {
    for name in names() {
        let report = ANSWERS.report(name);
        assert_eq!(report["class"], lm::family::architecture(specimen(name).spec().family));
        assert_eq!(report["missing"], json!([]));
        assert_eq!(report["unexpected"], json!([]));
    }
}

#[test]
fn logits_of_a_packed_batch_are_those_of_each_sequence_alone() {
    for name in names() {
        let model = specimen(name);
        let batch = Packed::new(&sequences(), CONTEXT, Device::Cpu).unwrap();
        let logits = tch::no_grad(|| model.logits(&batch)).unwrap();
        for (i, pair) in batch.cu_seqlens.windows(2).enumerate() {
            let expected = ANSWERS.tensor(&format!("{name}/logits/{i}"));
            let ours = logits.narrow(0, pair[0], pair[1] - pair[0]);
            // Logits that hardly vary would agree regardless of the layers.
            assert!(expected.std(true).double_value(&[]) > 0.5);
            close_everywhere(&format!("{name}, sequence {i}"), &ours, &expected, 1e-4);
        }
    }
}

#[test]
fn gradients_of_a_packed_batch_are_those_of_the_sequences() {
    let sequences = sequences();
    let batch = Packed::new(&sequences, CONTEXT, Device::Cpu).unwrap();
    let mut wanted = Weighted::default();
    for (i, (sequence, weights)) in sequences.iter().zip(weights_of_targets()).enumerate() {
        for (t, weight) in weights.into_iter().enumerate() {
            wanted.push(batch.cu_seqlens[i] + t as i64, sequence[t + 1], weight);
        }
    }
    for name in names() {
        let model = specimen(name);
        let (grads, _) = layerwise(&model, &batch, &wanted, TEMPERATURE, ActivationCheckpointing::Nothing);
        let prefix = format!("{name}/gradient/");
        let mut theirs = ANSWERS.names(&prefix);
        let mut ours: Vec<&str> = grads.entries().iter().map(|e| e.name.as_str()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
        for parameter in ours {
            let expected = ANSWERS.tensor(&format!("{prefix}{parameter}"));
            close(&format!("{prefix}{parameter}"), &grads.named(parameter).unwrap(), &expected, 1e-4);
        }
    }
}

#[test]
fn greedy_tokens_are_the_same() {
    for name in names() {
        let model = specimen(name);
        let tokenizer = tokenizer();
        let generator = Generator { model: &model, stop_ids: tokenizer.stop_ids(), limits: Limits::default() };
        let request = |prompt: Vec<u32>| Request {
            prompt,
            seeds: vec![0],
            sampling: Sampling::greedy(NEW_TOKENS),
            top_logprobs: 0,
        };
        let requests: Vec<Request> = prompts().into_iter().map(request).collect();
        let ours: Vec<Vec<u32>> =
            generator.generate(&requests, None).unwrap().into_iter().map(|mut r| r.remove(0).ids).collect();
        assert_eq!(json!(ours), ANSWERS.report(name)["greedy"], "{name}");
    }
}

#[test]
fn token_ids_and_decoded_texts_are_the_same() {
    for name in with_words() {
        let (report, tokenizer) = (ANSWERS.report(name), tokenizer_of(name));
        assert_eq!(json!(tokenizer.stop_ids()), json!([report["eos"]]));
        assert_eq!(json!(tokenizer.pad_id()), report["pad"]);
        for (i, text) in TEXTS.iter().enumerate() {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(json!(ids), report["ids"][i], "ids of {text:?}");
            assert_eq!(json!(tokenizer.decode(&ids).unwrap()), report["decoded"][i], "decoded {text:?}");
        }
    }
}

#[test]
fn chat_templates_render_the_same_bytes() {
    for name in with_words() {
        let (report, tokenizer) = (ANSWERS.report(name), tokenizer_of(name));
        for (i, (messages, open, thinking)) in chats().iter().enumerate() {
            let ours = tokenizer.template().render(messages, *open, *thinking).unwrap();
            let expected = report["chats"][i].as_str().unwrap();
            assert_eq!(ours, expected, "{messages:?}, opened: {open}, thinking: {thinking:?}");
            assert_eq!(json!(tokenizer.encode(&ours).unwrap()), report["chat_ids"][i]);
        }
    }
}

/// Distant positions need frequencies that are equal to the last bit of fp32: position 131,071 multiplies their error.
#[test]
fn rope_tables_agree_to_the_end_of_a_long_context() {
    for (head_dim, theta, last) in ROTATIONS {
        let positions = Tensor::arange_start(last as i64 - 63, last as i64 + 1, (Kind::Int64, Device::Cpu));
        let rotary = Rotary::new(&Rope::new(theta), head_dim, last + 1, Device::Cpu);
        let (cos, sin) = rotary.at(&positions, std::iter::empty());
        for (ours, part) in [(cos, "cos"), (sin, "sin")] {
            let expected = ANSWERS.tensor(&format!("rope/{head_dim}-{theta}-{last}/{part}"));
            let error = (&ours - expected).abs().max().double_value(&[]);
            assert_within!(error, 1e-6, "{part} of head_dim {head_dim}, theta {theta}, up to {last}");
        }
    }
}

#[test]
fn the_witness_sees_differences() {
    let expected = ANSWERS.tensor("qwen3-tied/logits/0");
    let other: Tensor = ANSWERS.tensor("qwen3-untied/logits/0");
    assert!(crate::fixtures::distance(&other, &expected) > 0.1, "two models with the same logits test nothing");
}
