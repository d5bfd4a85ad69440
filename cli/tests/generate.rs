//! `xplore generate` and `xplore score` on files.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use fixtures::tiny_model::folder;
use lm::{LocalModel, Packed};
use serde_json::{Value as Json, json};
use tch::{Device, Kind, Tensor};
use tolerance::assert_within;

/// Runs the program and returns standard output, standard error and exit code.
fn xplore(arguments: &[&str]) -> (String, String, i32) {
    let output = Command::cargo_bin("xplore").unwrap().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a command on rows, and returns its output lines and its standard error.
fn run(command: &str, folder: &Path, rows: &[Json], more: &[&str]) -> (Vec<Json>, String) {
    let input = folder.join("../input.jsonl");
    fs::write(&input, rows.iter().map(|r| format!("{r}\n")).collect::<String>()).unwrap();
    let mut arguments = vec![command, "--model", folder.to_str().unwrap(), "--input", input.to_str().unwrap()];
    arguments.extend(more);
    let (out, said, code) = xplore(&arguments);
    assert_eq!(code, 0, "{said}");
    (lines(&out), said)
}

/// Returns the log-probabilities of the next token after each of `ids`, shape `[tokens, vocab]`.
fn logits(model: &LocalModel, ids: &[u32]) -> Tensor {
    let batch = Packed::new(&[ids], 256, Device::Cpu).unwrap();
    tch::no_grad(|| model.decoder.logits(&batch)).unwrap().log_softmax(-1, Kind::Float)
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_kind_of_row_is_scored_token_by_token() {
    let (_place, folder) = folder();
    let model = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
    let chat = json!([{"role": "user", "content": "likes space?"}, {"role": "assistant", "content": "likes"}]);
    let rows =
        [json!({"text": "likes warm stories"}), json!({"ids": [5]}), json!({"messages": chat, "uid": "kept out"})];
    let (scored, _) = run("score", &folder, &rows, &["--dtype", "fp32"]);
    let encode = |text: &str| model.tokenizer.encode(text).unwrap();
    let turns = "<|im_start|>user\nlikes space?<|im_end|>\n<|im_start|>assistant\nlikes<|im_end|>\n";
    let expected = [encode("likes warm stories"), vec![5], encode(turns)];
    for (line, expected) in scored.iter().zip(&expected) {
        assert_eq!(ids(&line["ids"]), *expected);
        let logprobs = line["logprobs"].as_array().unwrap();
        assert_eq!((logprobs.len(), &logprobs[0]), (expected.len(), &Json::Null));
        let own = logits(&model, expected);
        for (at, logprob) in logprobs.iter().enumerate().skip(1) {
            let exact = own.double_value(&[at as i64 - 1, i64::from(expected[at])]);
            assert_within!(logprob.as_f64().unwrap() - exact, 1e-4);
        }
    }
    assert_eq!(scored.len(), 3);
    // Half precision gives slightly different values.
    let (half, _) = run("score", &folder, &rows, &["--dtype", "bf16"]);
    let first = |lines: &[Json]| lines[0]["logprobs"][1].as_f64().unwrap();
    let difference = (first(&half) - first(&scored)).abs();
    assert!(difference > 1e-6, "{difference}");
    assert_within!(difference, 0.5);
}

#[test]
fn candidates_are_scored_after_the_opened_turn() {
    let (_place, folder) = folder();
    let model = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
    let question = json!({"role": "user", "content": "likes space?"});
    let begun = json!({"role": "assistant", "content": "likes"});
    let rows = [
        json!({"messages": [question], "candidates": ["A", "B"]}),
        json!({"messages": [question, begun], "candidates": ["B"]}),
        json!({"text": "likes warm", "candidates": ["A", "A"]}),
    ];
    let (scored, _) = run("score", &folder, &rows, &["--dtype", "fp32"]);
    let open = "<|im_start|>user\nlikes space?<|im_end|>\n<|im_start|>assistant\n";
    let expected = [(open.to_owned(), "AB"), (format!("{open}likes"), "B"), ("likes warm".to_owned(), "AA")];
    for (line, (text, candidates)) in scored.iter().zip(&expected) {
        let ids = model.tokenizer.encode(text).unwrap();
        assert_eq!(line["prompt_tokens"], ids.len());
        let last = logits(&model, &ids).get(-1);
        let got = line["candidates"].as_array().unwrap();
        assert_eq!(got.len(), candidates.len());
        for (got, letter) in got.iter().zip(candidates.chars()) {
            let [id] = model.tokenizer.encode(&letter.to_string()).unwrap()[..] else { panic!("one token") };
            let exact = last.double_value(&[i64::from(id)]);
            assert_within!(got.as_f64().unwrap() - exact, 1e-4, "{letter} after {text:?}: {got}, not {exact}");
        }
    }
}

#[test]
fn options_of_generation_do_what_they_say() {
    let (_place, folder) = folder();
    let model = LocalModel::load(&folder, Kind::Float, Device::Cpu).unwrap();
    let rows = [json!({"text": "likes space"}), json!({"ids": [9, 8, 7]})];
    let generate = |more: &[&str]| run("generate", &folder, &rows, &[&["--dtype", "fp32"], more].concat());
    let (greedy, said) = generate(&["--greedy", "--max-new-tokens", "6", "--ignore-eos", "--stats"]);
    for line in &greedy {
        let drawn = ids(&line["ids"]);
        assert_eq!((drawn.len(), &line["finish"]), (6, &json!("length")));
        assert_eq!(line["text"], model.tokenizer.decode(&drawn).unwrap());
        let row = line["row"].as_u64().unwrap() as usize;
        let prompt = [model.tokenizer.encode("likes space").unwrap(), vec![9, 8, 7]][row].clone();
        assert_eq!(line["prompt_tokens"], prompt.len());
        let own = logits(&model, &[prompt.clone(), drawn.clone()].concat());
        for (i, id) in drawn.iter().enumerate() {
            let at = own.get((prompt.len() + i) as i64 - 1);
            assert_eq!(at.argmax(-1, false).int64_value(&[]), i64::from(*id));
            let logprob = line["logprobs"][i].as_f64().unwrap();
            assert_within!(logprob - at.double_value(&[i64::from(*id)]), 1e-4);
        }
    }
    let stats: Json = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(stats["generated_tokens"], 12);
    assert_eq!(stats["prompt_tokens"], greedy.iter().map(|l| l["prompt_tokens"].as_u64().unwrap()).sum::<u64>());
    for key in ["prefill_seconds", "decode_seconds", "tokens_per_second", "peak_memory_bytes"] {
        assert!(stats[key].as_f64().unwrap() > 0.0, "{key}: {stats}");
    }

    let texts = |more: &[&str]| -> Vec<String> {
        let (lines, _) = generate(&[&["--max-new-tokens", "8"], more].concat());
        lines.iter().map(|l| l["text"].as_str().unwrap().to_owned()).collect()
    };
    let several = texts(&["--samples", "3", "--seed", "1"]);
    assert_eq!(several.len(), 6);
    assert_ne!(several[0], several[1]);
    assert_eq!(
        several,
        texts(&["--samples", "3", "--seed", "1", "--max-num-seqs", "1", "--max-num-batched-tokens", "2"])
    );
    assert_ne!(several, texts(&["--samples", "3", "--seed", "2"]));
    assert_eq!(texts(&["--top-k", "1"]), texts(&["--greedy"]));
    assert_eq!(texts(&["--top-p", "0.000001"]), texts(&["--greedy"]));
    assert_eq!(texts(&["--min-p", "1"]), texts(&["--greedy"]));
    assert_eq!(texts(&["--temperature", "0"]), texts(&["--greedy"]));
    assert_ne!(texts(&["--greedy", "--repetition-penalty", "3"]), texts(&["--greedy"]));
    let (free, _) = generate(&["--greedy", "--max-new-tokens", "40"]);
    // A word of the text: complete characters, regardless of how they are tokenized.
    let text = free[0]["text"].as_str().unwrap();
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).find(|w| w.len() > 1).unwrap();
    let (stopped, _) = generate(&["--greedy", "--max-new-tokens", "40", "--stop", word]);
    assert_eq!(stopped[0]["finish"], "stop");
    assert!(stopped[0]["text"].as_str().unwrap().contains(word));
    assert!(ids(&stopped[0]["ids"]).len() < ids(&free[0]["ids"]).len());
    let (top, _) = generate(&["--greedy", "--max-new-tokens", "2", "--top-logprobs", "3"]);
    assert_eq!(top[0]["top"][0].as_array().unwrap().len(), 3);
    assert_eq!(top[0]["top"][0][0][0], top[0]["ids"][0], "greedy takes the likeliest");
}

#[test]
fn defaults_come_from_the_models_own_file() {
    let (_place, folder) = folder();
    let rows = [json!({"text": "likes"})];
    fs::write(folder.join("generation_config.json"), r#"{"do_sample": false, "max_new_tokens": 3}"#).unwrap();
    let (greedy, _) = run("generate", &folder, &rows, &["--ignore-eos"]);
    assert_eq!(ids(&greedy[0]["ids"]).len(), 3);
    let (asked, _) = run("generate", &folder, &rows, &["--ignore-eos", "--greedy", "--max-new-tokens", "3"]);
    assert_eq!(greedy, asked);
    let (longer, _) = run("generate", &folder, &rows, &["--ignore-eos", "--max-new-tokens", "5"]);
    assert_eq!(ids(&longer[0]["ids"]).len(), 5);
}

#[test]
fn what_is_wrong_is_named_by_file_and_row() {
    let (place, folder) = folder();
    let input = place.path().join("rows.jsonl");
    let model = folder.to_str().unwrap();
    let refused = |command: &str, rows: &str, more: &[&str], code: i32, names: &[&str]| {
        fs::write(&input, rows).unwrap();
        let arguments = [&[command, "--model", model, "--input", input.to_str().unwrap()], more].concat();
        let (out, said, exit) = xplore(&arguments);
        assert_eq!((exit, out.as_str()), (code, ""), "{said}");
        assert!(said.starts_with("error: ") && names.iter().all(|n| said.contains(n)), "{said}");
    };
    let good = "{\"text\": \"likes\"}\n";
    refused("score", &format!("{good}{{\"text\": \"a\", \"ids\": [1]}}\n"), &[], 3, &["rows.jsonl:2", "exactly one"]);
    refused("score", &format!("{good}{{}}\n"), &[], 3, &["rows.jsonl:2", "exactly one"]);
    refused("score", &format!("{good}{{\"ids\": [7, 99999]}}\n"), &[], 3, &["request 1", "99999"]);
    let several = "{\"text\": \"likes\", \"candidates\": [\"A\", \"likes warm stories\"]}\n";
    refused(
        "score",
        &format!("{good}{several}"),
        &[],
        3,
        &["rows.jsonl", "row 2", "`likes warm stories`", "exactly 1"],
    );
    refused("score", "{\"text\": \"likes\", \"candidates\": []}\n", &[], 3, &["rows.jsonl:1", "candidates"]);
    refused("generate", &format!("{{\"ids\": {:?}}}\n", vec![1; 300]), &[], 3, &["request 0", "300 tokens"]);
    refused("generate", good, &["--top-p", "0"], 2, &["top_p"]);
    refused("generate", good, &["--max-num-seqs", "0"], 2, &["--max-num-seqs"]);
    refused("generate", good, &["--kv-cache-gib", "0"], 2, &["--kv-cache-gib"]);
    refused("generate", good, &["--kv-cache-gib", "0.00001"], 3, &["cache"]);
    let (_, said, code) = xplore(&["score", "--model", model, "--input", "hf://datasets/me/rows"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("hf://datasets/owner/name/path"), "{said}");
}
