//! How each key of `[data]` affects rows.

use chat::tokenizer::Tokenizer;
use configs::sft::{LossOn, SftData, Truncation, Unusable};
use corpus::CorpusError;
use serde_json::{Value as Json, json};

use crate::fixtures::{FORGETFUL, MARKED, sequences, tokenizer, tokenizer_with, trained, turns};

/// Returns the trained texts of one row.
fn texts(row: Json, loss_on: LossOn, tokenizer: &Tokenizer) -> Vec<String> {
    let (all, _) = sequences(&[row], &SftData { loss_on, ..SftData::default() }, tokenizer).unwrap();
    trained(&all[0], tokenizer)
}

/// Returns the error for one row.
fn refused(row: Json, data: SftData, tokenizer: &Tokenizer) -> String {
    sequences(&[row], &data, tokenizer).unwrap_err().to_string()
}

#[test]
fn loss_on_completion_is_what_follows_the_prompt() {
    let t = tokenizer();
    let chat = turns(&["space?", "warm", "why?", "likes"]);
    assert_eq!(texts(json!({"messages": chat}), LossOn::Completion, &t), ["likes<|im_end|>\n"]);
    let row = json!({"prompt": turns(&["space?"]), "completion": [{"role": "assistant", "content": "warm"}]});
    assert_eq!(texts(row, LossOn::Completion, &t), ["warm<|im_end|>\n"]);
    let row = json!({"prompt": "the user", "completion": " likes space"});
    assert_eq!(texts(row, LossOn::Completion, &t), [" likes space<|im_end|>"]);
    let row = json!({"text": "<|im_start|>space<|im_end|>"});
    assert_eq!(texts(row, LossOn::Completion, &t), ["space<|im_end|>"], "all but the first, and no second end");
    assert!(
        refused(json!({"messages": turns(&["a", "b", "c"])}), SftData::default(), &t)
            .contains("ends with an assistant")
    );
}

#[test]
fn loss_on_assistant_is_every_turn_of_the_assistant() {
    let chat = turns(&["space?", "warm 日", "why?", "likes"]);
    let last = json!([{"role": "assistant", "content": "likes"}]);
    let split = json!({"prompt": turns(&["space?", "warm 日", "why?"]), "completion": last});
    // Without generation blocks, a turn includes its end-of-turn tokens, as a completion does.
    let plain = ["warm 日<|im_end|>\n", "likes<|im_end|>\n"];
    let marked = ["warm 日<|im_end|>", "likes<|im_end|>"];
    for (t, expected) in [(tokenizer(), plain), (tokenizer_with(MARKED), marked)] {
        assert_eq!(texts(json!({"messages": chat}), LossOn::Assistant, &t), expected);
        assert_eq!(texts(split.clone(), LossOn::Assistant, &t), expected);
        for none in
            [json!({"text": "space"}), json!({"prompt": "a", "completion": "b"}), json!({"messages": turns(&["a"])})]
        {
            let data = SftData { loss_on: LossOn::Assistant, ..SftData::default() };
            assert!(refused(none, data, &t).contains("no token to train on"));
        }
    }
}

#[test]
fn turns_that_the_template_rewrites_are_refused_with_a_way_out() {
    let t = tokenizer_with(FORGETFUL);
    let chat = turns(&["space?", "<think>a</think>warm", "why?", "likes"]);
    let data = SftData { loss_on: LossOn::Assistant, ..SftData::default() };
    let error = refused(json!({"messages": chat}), data, &t);
    assert!(error.contains("line 1") && error.contains("% generation %") && error.contains("Qwen3"), "{error}");
    assert_eq!(texts(json!({"messages": chat}), LossOn::Completion, &t), ["likes<|im_end|>\n"]);
}

#[test]
fn loss_on_all_is_everything_but_the_first_token() {
    let t = tokenizer();
    for row in [
        json!({"messages": turns(&["space?"])}),
        json!({"prompt": turns(&["a"]), "completion": [{"role": "assistant", "content": "b"}]}),
        json!({"prompt": "a", "completion": "b"}),
        json!({"text": "likes space"}),
    ] {
        let (all, _) = sequences(&[row], &SftData { loss_on: LossOn::All, ..SftData::default() }, &t).unwrap();
        assert!(!all[0].trained[0] && all[0].trained[1..].iter().all(|&t| t), "{all:?}");
    }
}

#[test]
fn indices_say_which_tokens_are_trained_whatever_loss_on_says() {
    let t = tokenizer();
    let text = "the user likes space";
    let ids = t.encode(text).unwrap();
    for loss_on in [LossOn::Completion, LossOn::Assistant, LossOn::All] {
        let data = SftData { loss_on, ..SftData::default() };
        let (all, _) = sequences(&[json!({"text": text, "indices": [1, 3]})], &data, &t).unwrap();
        assert_eq!(all[0].ids, ids, "nothing is added");
        let at: Vec<usize> = (0..ids.len()).filter(|&i| all[0].trained[i]).collect();
        assert_eq!(at, [1, 3]);
    }
    for index in [0, ids.len()] {
        let error = refused(json!({"text": text, "indices": [index]}), SftData::default(), &t);
        assert!(error.contains(&format!("`indices` has {index}")), "{error}");
    }
    assert!(refused(json!({"text": text, "indices": []}), SftData::default(), &t).contains("no token to train on"));
}

#[test]
fn max_length_and_truncation() {
    let t = tokenizer();
    let text = "the user likes warm stories about space";
    let ids = t.encode_text(&format!("{text}<|im_end|>")).unwrap();
    let rows = [json!({"text": text}), json!({"text": "space"})];
    let cut = |truncation, max_length| sequences(&rows, &SftData { truncation, max_length, ..SftData::default() }, &t);
    let n = ids.len();
    let (all, corpus) = cut(Truncation::KeepStart, n).unwrap();
    assert_eq!((all[0].ids.as_slice(), corpus.report.sets[0].1.truncated), (ids.as_slice(), 0));
    let (all, corpus) = cut(Truncation::KeepStart, n - 1).unwrap();
    assert_eq!((all[0].ids.as_slice(), corpus.report.sets[0].1.truncated), (&ids[..n - 1], 1));
    let (all, _) = cut(Truncation::KeepEnd, n - 1).unwrap();
    assert_eq!(all[0].ids, ids[1..]);
    assert!(!all[0].trained[0], "the first token that is left is predicted by nothing");
    let (all, corpus) = cut(Truncation::Skip, n - 1).unwrap();
    assert_eq!((all.len(), corpus.report.sets[0].1.skipped.too_long), (1, 1));
    let error = cut(Truncation::Error, n - 1).unwrap_err().to_string();
    assert!(
        error.contains("line 1") && error.contains(&format!("has {n} tokens, more than data.max_length")),
        "{error}"
    );
}

#[test]
fn unusable_rows_end_the_run_or_are_counted() {
    let t = tokenizer();
    let long = json!({"prompt": "the user likes warm stories", "completion": " about"});
    let merged = json!({"prompt": "the us", "completion": "er"});
    let rows = [
        json!({"text": "likes space"}),
        json!({"messages": turns(&["a"])}),
        merged.clone(),
        json!({"text": "a", "indices": [9]}),
        long.clone(),
    ];
    let data = SftData { max_length: 4, unusable: Unusable::Skip, ..SftData::default() };
    let (all, corpus) = sequences(&rows, &data, &t).unwrap();
    let report = corpus.report.sets[0].1;
    assert_eq!((all.len(), report.rows, report.kept), (1, 5, 1));
    let skipped = report.skipped;
    assert_eq!((skipped.no_trained_token, skipped.prompt_no_prefix, skipped.bad_index), (2, 1, 1));
    assert_eq!(skipped.total(), 4);
    let tokens = all[0].ids.len() as u64;
    assert_eq!((report.tokens, report.trained_tokens, report.longest), (tokens, tokens - 1, tokens));

    let error = sequences(&rows, &SftData { max_length: 4, ..SftData::default() }, &t).unwrap_err();
    assert!(matches!(error, CorpusError::Unusable { .. }));
    assert!(error.to_string().contains("line 2: has no token to train on"), "{error}");
    assert!(refused(merged, SftData::default(), &t).contains("not a prefix"));
    let error = refused(long, SftData { max_length: 4, ..SftData::default() }, &t);
    assert!(error.contains("data.max_length = 4 leaves none"), "{error}");
}

#[test]
fn malformed_rows_end_the_run_even_if_unusable_ones_are_skipped() {
    let data = SftData { unusable: Unusable::Skip, ..SftData::default() };
    let error = sequences(&[json!({"text": "a b"}), json!({"txt": "a"})], &data, &tokenizer()).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl, line 2: has `txt`; expected `prompt` and `completion`"), "{error}");
    let refusing = tokenizer_with("{{ raise_exception('no system turns') }}");
    let error = refused(json!({"messages": turns(&["a", "b"])}), data, &refusing);
    assert!(error.contains("line 1") && error.contains("no system turns"), "{error}");
}
