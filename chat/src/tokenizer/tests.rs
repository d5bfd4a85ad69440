use super::*;

fn tiny() -> Tokenizer {
    let text = "likes warm stories about space and avoids long dry reports about finance ".repeat(20);
    Tokenizer::train([text.as_str()].into_iter(), 400).unwrap()
}

#[test]
fn text_survives_the_round_trip() {
    let t = tiny();
    for text in ["likes space", "ünseen wörds & 日本", "<think>\nwarm\n</think>\n\nlikes"] {
        assert_eq!(t.decode(&t.encode(text).unwrap()).unwrap(), text);
    }
    assert_eq!(t.encode(" space").unwrap().len(), 1, "a frequent word is one token");
}

#[test]
fn a_saved_tokenizer_is_the_same_tokenizer() {
    let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
    t.save(folder.path()).unwrap();
    let again = Tokenizer::load(folder.path()).unwrap();
    let chat = [Message::user("likes space?")];
    assert_eq!(t.encode_chat(&chat, None).unwrap(), again.encode_chat(&chat, None).unwrap());
    assert_eq!(t.stop_ids(), again.stop_ids());
    assert_eq!(t.stop_ids().len(), 1);
}

#[test]
fn generation_defaults_are_those_of_the_file_and_survive_a_save() {
    let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
    assert_eq!(t.generation_defaults(), Sampling::all(1024));
    t.save(folder.path()).unwrap();
    let path = folder.path().join("generation_config.json");
    let file = json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.1,
        "max_new_tokens": 7, "do_sample": true, "eos_token_id": [2, 5]});
    std::fs::write(&path, file.to_string()).unwrap();
    let read = Tokenizer::load(folder.path()).unwrap();
    let expected =
        Sampling { temperature: 0.6, top_k: 20, top_p: 0.95, min_p: 0.1, repetition_penalty: 1.1, ..Sampling::all(7) };
    assert_eq!(read.generation_defaults(), expected);
    assert_eq!(read.stop_ids(), [2, 5]);
    assert_eq!(read.generation_config()["top_k"], 20);
    std::fs::write(&path, r#"{"do_sample": false, "temperature": 0.6}"#).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().generation_defaults().temperature, 0.0);
}

#[test]
fn a_row_is_split_where_the_completion_begins() {
    let t = tiny();
    let row = SftRow { prompt: vec![Message::user("space?")], completion: vec![Message::assistant("likes space")] };
    let tokens = t.encode_row(&row).unwrap();
    assert_eq!(t.decode(&tokens.ids[tokens.prompt_len..]).unwrap(), "likes space\n");
    assert!(tokens.ids[tokens.prompt_len..].contains(&t.stop_ids()[0]));
}

#[test]
fn offsets_are_bytes_and_special_tokens_are_written() {
    let t = tiny();
    let text = "日 space<|im_end|>";
    let (ids, offsets) = t.encode_with_offsets(text).unwrap();
    assert_eq!(ids, t.encode(text).unwrap());
    assert_eq!(&text[offsets.last().unwrap().clone()], "<|im_end|>");
    assert_eq!(t.decode_all(&ids).unwrap(), text);
    assert_eq!(t.eos_token().as_deref(), Some("<|im_end|>"));
}

#[test]
fn a_file_with_truncation_cuts_nothing() {
    let (t, folder) = (tiny(), tempfile::tempdir().unwrap());
    t.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    std::fs::write(&path, json.to_string()).unwrap();
    let text = "likes warm stories about space";
    let again = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(again.encode(text).unwrap(), t.encode(text).unwrap());
    assert!(t.encode(text).unwrap().len() > 2);
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
