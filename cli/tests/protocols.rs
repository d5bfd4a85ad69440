//! The commands that apply the rules of training and evaluation to JSON lines, on cases worked by hand (docs/protocols.md).

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value as Json, json};
use tolerance::assert_within;

/// Runs the program in `folder` on rows from standard input; returns standard output, standard error and exit code.
fn run_in(folder: &Path, arguments: &[&str], input: &str) -> (String, String, i32) {
    let mut command = Command::cargo_bin("xplore").unwrap();
    let output = command.current_dir(folder).args(arguments).write_stdin(input).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

/// Returns the output lines of a command without files.
fn lines(arguments: &[&str], rows: &[Json]) -> Vec<Json> {
    let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let (out, said, code) = run_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments, &input);
    assert_eq!(code, 0, "{said}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[track_caller]
fn refused(arguments: &[&str], input: &str, code: i32, words: &[&str]) {
    let (out, said, exit) = run_in(Path::new(env!("CARGO_MANIFEST_DIR")), arguments, input);
    assert_eq!((exit, out.as_str()), (code, ""), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
}

fn interaction(chosen: &str) -> Json {
    json!({"query": "q", "chosen": chosen, "rejected": "r"})
}

#[test]
fn the_published_judge_keeps_the_letters_apart() {
    let token = |text: &str, logprob: f64| json!({"token": text, "logprob": logprob});
    let (p, q) = (f64::exp(-0.25), f64::exp(-0.5));
    let cases = [
        // The last A and the last B count, also if the other letter follows.
        (json!([token("A", -3.0), token(" A", -0.25), token(" or", 0.0), token(" B", -0.5)]), "B", [p, q]),
        // Only one letter: the other is worth 1 − it. The markers of byte-level tokenizers are removed.
        (json!([token("Item", 0.0), token("ĠA", -0.25), token("\"}", 0.0)]), "A", [p, 1.0 - p]),
        (json!([token("ĊB", -0.5)]), "B", [1.0 - q, q]),
    ];
    let rows: Vec<Json> = cases.iter().map(|(tokens, ..)| json!({"tokens": tokens})).collect();
    let found = lines(&["judge", "--parse", "--protocol", "published"], &rows);
    for ((_, selection, confidence), line) in cases.iter().zip(&found) {
        let right = |p: f64| if p > 0.5 { 1.0 } else { 0.0 };
        let want = json!({
            "answered": true, "selection": selection,
            "confidence": {"A": confidence[0], "B": confidence[1]},
            "accuracy": {"A": right(confidence[0]), "B": right(confidence[1])},
        });
        assert_eq!(*line, want);
    }
    // Neither letter: 0 as published, one half by our default.
    let neither = [json!({"text": "a or b"})];
    let silent = |value: f64, accuracy: f64| {
        json!([{"answered": false, "selection": null, "confidence": {"A": value, "B": value},
            "accuracy": {"A": accuracy, "B": accuracy}}])
    };
    assert_eq!(json!(lines(&["judge", "--parse"], &neither)), silent(0.0, 0.0));
    assert_eq!(json!(lines(&["judge", "--parse", "--protocol", "ours"], &neither)), silent(0.5, 0.5));
}

#[test]
fn our_judge_compares_the_letters() {
    let top = |text: &str, p: f64| json!({"token": text, "logprob": p.ln()});
    let tokens = json!([{"token": " A", "logprob": 0.3f64.ln(), "top_logprobs": [top(" A", 0.3), top(" B", 0.1)]}]);
    let found = lines(&["judge", "--parse", "--protocol", "ours"], &[json!({"tokens": tokens})]);
    assert_eq!(found[0]["selection"], "A");
    let a = found[0]["confidence"]["A"].as_f64().unwrap();
    // 0.3 / (0.3 + 0.1), with log-probabilities in single precision.
    assert_within!(a - 0.75, 1e-6);
    // In a free answer, letters before the prefix are no answer.
    let text = r#"Not A: {"selection": "Item B"}"#;
    let found = lines(&["judge", "--parse", "--protocol", "ours"], &[json!({"text": text})]);
    assert_eq!((&found[0]["selection"], &found[0]["confidence"]), (&json!("B"), &json!({"A": 0.0, "B": 1.0})));
    // Read as a forced answer, it does not begin with a letter.
    let forced = lines(&["judge", "--parse", "--protocol", "ours"], &[json!({"text": text, "mode": "forced"})]);
    assert_eq!(forced[0]["answered"], json!(false));
}

/// The result of a well-formed response.
fn passed(reasoning: &str, summary: &str) -> Json {
    json!({"well_formed": true, "reasoning": reasoning, "summary": summary, "past_summary": summary})
}

/// The result of a malformed response.
fn failed(past: &str) -> Json {
    json!({"well_formed": false, "reasoning": null, "summary": null, "past_summary": past})
}

#[test]
fn the_gate_shows_what_is_judged_and_what_is_carried() {
    let texts = [
        "<think>a</think> b",
        "\n<think>a</think> b",
        "<think>a<think>b</think></think> c",
        "<think>a</think>\n",
        "<think></think>b",
    ];
    let rows = texts.map(|text| json!({"text": text}));
    let published = lines(&["reward", "--gate", "published"], &rows);
    assert_eq!(published, [passed("a", "b"), failed("b"), failed("c"), passed("a", ""), failed("b")]);
    let strict = lines(&["reward", "--gate", "strict"], &rows);
    assert_eq!(strict, [passed("a", "b"), passed("a", "b"), failed("c"), failed(""), passed("", "b")]);
}

/// Options that shrink the published recipe to 8 responses on 2 ranks.
const SMALL: [&str; 14] = [
    "rl",
    "--config",
    "../configs/rl-alignxplore-plus.toml",
    "--set",
    "algorithm.published_ranks=2",
    "--set",
    "algorithm.num_minibatches=2",
    "--set",
    "algorithm.micro_batch_sequences=2",
    "--set",
    "rollout.users_per_step=2",
    "--set",
    "rollout.num_generations=2",
    "--batches",
];

fn group(stage: usize, prompt: usize, responses: [usize; 2], advantages: [f64; 2]) -> Json {
    json!({"stage": stage, "prompt_tokens": prompt, "response_tokens": responses, "advantages": advantages})
}

/// The place of a response in the first micro-batch of its rank.
fn place(rank: usize, mini_batch: usize, weight: f64, derivative: f64) -> Json {
    json!({"rank": rank, "mini_batch": mini_batch, "micro_batch": 0, "weight": weight, "derivative": derivative})
}

#[test]
fn batches_of_two_published_ranks() {
    let rows = [
        group(0, 100, [10, 20], [1.0, -1.0]),
        group(0, 100, [30, 100], [0.5, -0.5]),
        group(1, 50, [10, 10], [0.0, 0.0]),
        group(1, 50, [10, 10], [2.0, -2.0]),
    ];
    let found = lines(&SMALL, &rows);
    // Partitions of stage 0 by length (110, 120, 130, 200): responses 0 and 3, then 1 and 2. Each pair is a micro-batch of rank 0,
    // of 110 and 50 tokens; so it is on rank 1, with 20 tokens each. A mini-batch is the mean of its two micro-batches.
    let (w, v, u) = (1.0 / 220.0, 0.01, 0.025);
    let want = [
        json!({"stage": 0, "responses": [place(0, 0, w, -w), place(0, 1, v, v)]}),
        json!({"stage": 0, "responses": [place(0, 1, v, -0.5 * v), place(0, 0, w, 0.5 * w)]}),
        json!({"stage": 1, "responses": [place(1, 0, u, 0.0), place(1, 1, u, 0.0)]}),
        json!({"stage": 1, "responses": [place(1, 1, u, -2.0 * u), place(1, 0, u, 2.0 * u)]}),
    ];
    assert_eq!(found, want);
    let mut sums = [0.0; 2];
    for (row, line) in rows.iter().zip(&found) {
        for (i, place) in line["responses"].as_array().unwrap().iter().enumerate() {
            let tokens = row["response_tokens"][i].as_f64().unwrap();
            sums[place["mini_batch"].as_u64().unwrap() as usize] += tokens * place["weight"].as_f64().unwrap();
        }
    }
    // The weights of a full mini-batch sum to 1.
    for sum in sums {
        assert_within!(sum - 1.0, 1e-12);
    }
    let refused_row = |row: &str, words: &[&str]| refused(&SMALL, row, 3, words);
    refused_row(
        &format!("{}\n{}\n", rows[0], rows[0].to_string().replace("\"stage\":0", "\"stage\":2")),
        &["standard input:2", "`stage`", "expected 0 to 1"],
    );
    refused_row(&rows[0].to_string().replace("[10,20]", "[10]"), &["standard input:1", "`advantages`", "expected 1"]);
    refused_row(&rows[0].to_string().replace("100", "9000"), &["`prompt_tokens`", "8192"]);
    refused_row(&rows[0].to_string().replace("20", "\"20\""), &["`response_tokens[1]`", "expected usize"]);
}

/// A prompt set whose prompts have one word for each value.
fn write_words(folder: &Path) {
    let history = "{% for i in interactions %} {{ i.chosen }}{% endfor %}";
    for (file, text) in [
        ("summarize.system.j2", "write".to_owned()),
        ("summarize.j2", format!("{{{{ past }}}}{history}")),
        ("history.j2", history.to_owned()),
        ("judge.j2", "{{ preference }} {{ query }} {{ item_a }} {{ item_b }}".to_owned()),
        ("teach.j2", format!("{{{{ past }}}}{history} {{{{ query }}}} {{{{ item_a }}}} {{{{ item_b }}}}")),
        ("merge.j2", "{{ past }}{% for c in candidates %} {{ c.reasoning }}|{{ c.preference }}{% endfor %}".to_owned()),
    ] {
        fs::write(folder.join(file), text).unwrap();
    }
}

fn round(part: [usize; 2], read: [usize; 2], length: usize) -> Json {
    json!({"part": part, "read": read, "dropped": read[0] - part[0], "length": length})
}

#[test]
fn the_plan_of_an_evaluation_drops_the_older_half_of_an_over_long_history() {
    let place = tempfile::tempdir().unwrap();
    write_words(place.path());
    let plan = |history: usize, more: &[&str]| {
        let history: Vec<Json> = (0..history).map(|i| interaction(&i.to_string())).collect();
        let user = json!({"uid": "u", "history": history, "targets": [interaction("t")], "past": "likes warm stories"});
        let arguments = [&["eval", "--plan", "--prompts", "."], more].concat();
        let (out, said, code) = run_in(place.path(), &arguments, &user.to_string());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Json>(&out).unwrap()
    };
    // A summary's prompt has a system turn of one word and the past summary of two ("Not Provided.") or three words beside the
    // history; the judge's prompt has query and two items.
    let found = plan(9, &["--limit", "8"]);
    assert_eq!(found["full"], json!([round([0, 9], [5, 9], 7)]));
    assert_eq!(found["streaming"], json!([round([0, 4], [0, 4], 7), round([4, 9], [7, 9], 6)]));
    assert_eq!(
        found["targets"],
        json!([{
            "kind": "in_domain", "query": "q", "chosen": "t", "rejected": "r", "direct": round([0, 9], [5, 9], 7),
        }])
    );
    let thirds = plan(10, &["--split", "thirds"]);
    assert_eq!(thirds["full"], json!([round([0, 6], [0, 6], 9)]));
    assert_eq!(thirds["streaming"], json!([round([0, 3], [0, 3], 6), round([3, 6], [3, 6], 7)]));
    // Messages are split and dropped alike.
    fs::write(
        place.path().join("summarize_messages.j2"),
        "{{ past }}{% for m in messages %} {{ m.content }}{% endfor %}",
    )
    .unwrap();
    fs::write(place.path().join("history_messages.j2"), "{% for m in messages %} {{ m.content }}{% endfor %}").unwrap();
    let messages: Vec<Json> = (0..9).map(|i| json!({"role": "user", "content": i.to_string()})).collect();
    let user = json!({"uid": "u", "messages": messages, "targets": [interaction("t")], "past": "likes warm stories"});
    let arguments = ["eval", "--plan", "--prompts", ".", "--limit", "7"];
    let (out, said, code) = run_in(place.path(), &arguments, &user.to_string());
    assert_eq!(code, 0, "{said}");
    let of_messages: Json = serde_json::from_str(&out).unwrap();
    // No system turn here, so the limit is one word less.
    assert_eq!(of_messages["full"], json!([round([0, 9], [5, 9], 6)]));
    assert_eq!(of_messages["streaming"], json!([round([0, 4], [0, 4], 6), round([4, 9], [7, 9], 5)]));
    assert_eq!(of_messages["targets"][0]["direct"], json!(round([0, 9], [5, 9], 7)));
    let none = plan(4, &["--limit", "3"]);
    assert_eq!(none["full"], json!([{"part": [0, 4], "read": null, "dropped": 4, "length": null}]));
}

#[test]
fn a_tokenizer_measures_prompts_in_tokens() {
    let (_place, folder) = fixtures::tiny_model::folder();
    let user = json!({"uid": "u", "history": [interaction("a"), interaction("b")], "targets": [interaction("t")]});
    let tokenizer = chat::tokenizer::Tokenizer::load(&folder).unwrap();
    let prompts = chat::PromptSet::new("compact", &configs::prompts::sources("compact").unwrap()).unwrap();
    let history: Vec<chat::Interaction> = serde_json::from_value(user["history"].clone()).unwrap();
    let ids = tokenizer.encode_chat(&prompts.summarize(None, &history).unwrap(), None).unwrap();
    let folder = folder.to_str().unwrap();
    let found = lines(&["eval", "--plan", "--prompts", "compact", "--tokenizer", folder], &[user]);
    assert_eq!(found[0]["full"][0]["length"], json!(ids.len()));
}

#[test]
fn rows_are_rendered_for_every_kind() {
    let place = tempfile::tempdir().unwrap();
    write_words(place.path());
    let render = |kind: &str, row: Json| {
        let arguments = ["prompts", "render", "--prompts", ".", "--kind", kind];
        let (out, said, code) = run_in(place.path(), &arguments, &row.to_string());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Json>(&out).unwrap()
    };
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let summary = |content: &str| json!([turn("system", "write"), turn("user", content)]);
    let interactions = json!([interaction("a"), interaction("b")]);
    let sft = render("sft", json!({"interactions": interactions, "reasoning": "why", "preference": "what"}));
    let completion = turn("assistant", "<think>\nwhy\n</think>\n\nwhat");
    let want = [turn("system", "write"), turn("user", "Not Provided. a b"), completion];
    assert_eq!(sft, json!({"messages": want}));
    let history = json!([interaction("a"), interaction("b"), interaction("c"), interaction("d")]);
    let rl = render("rl", json!({"uid": "u", "history": history, "mid_position": 1, "past": "old"}));
    assert_eq!(rl["stages"][0], json!({"messages": summary("Not Provided. a"), "target": interaction("b")}));
    assert_eq!(rl["stages"][1], json!({"messages": summary("old b c"), "target": interaction("d")}));
    let question = json!({"preference": "what", "query": "q", "item_a": "x", "item_b": "y"});
    assert_eq!(render("judge", question), json!({"messages": [turn("user", "what q x y")]}));
    let teach = json!({"past": "old", "interactions": interactions, "query": "q", "item_a": "x", "item_b": "y"});
    assert_eq!(render("teach", teach), json!({"messages": [turn("user", "old a b q x y")]}));
    let merge = json!({"candidates": [{"reasoning": "r", "preference": "p"}]});
    assert_eq!(render("merge", merge), json!({"messages": [turn("user", "Not Provided. r|p")]}));
    let streaming = json!({"setting": "streaming", "past": "old", "interactions": interactions});
    assert_eq!(render("eval", streaming), json!({"messages": summary("old a b")}));
    let direct = json!({"setting": "direct", "interactions": interactions, "item_a": "x", "item_b": "y"});
    assert_eq!(render("eval", direct), json!({"messages": [turn("user", " a b None x y")]}));
}

#[test]
fn rows_of_messages_are_rendered_with_templates_of_their_own() {
    let place = tempfile::tempdir().unwrap();
    let said = "{% for m in messages %} {{ m.role }}:{{ m.content }}{% endfor %}";
    for (file, text) in [
        ("summarize_messages.j2", format!("{{{{ past }}}}{said}")),
        ("history_messages.j2", said.to_owned()),
        ("judge.j2", "{{ preference }} {{ query }} {{ item_a }} {{ item_b }}".to_owned()),
        ("teach_messages.j2", format!("{{{{ past }}}}{said} {{{{ query }}}} {{{{ item_a }}}} {{{{ item_b }}}}")),
    ] {
        fs::write(place.path().join(file), text).unwrap();
    }
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let messages = json!([turn("user", "a"), turn("assistant", "b"), turn("user", "c")]);
    let render = |kind: &str, mut row: Json| {
        row["messages"] = messages.clone();
        let arguments = ["prompts", "render", "--prompts", ".", "--kind", kind];
        let (out, said, code) = run_in(place.path(), &arguments, &row.to_string());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<Json>(&out).unwrap()
    };
    let all = "user:a assistant:b user:c";
    let sft = render("sft", json!({"reasoning": "why", "preference": "what"}));
    assert_eq!(sft["messages"][0], turn("user", &format!("Not Provided. {all}")));
    let targets = json!([interaction("t"), interaction("s")]);
    let rl = render("rl", json!({"uid": "u", "stage_targets": targets, "mid_position": 1, "past": "old"}));
    let stage =
        |content: &str, target: &str| json!({"messages": [turn("user", content)], "target": interaction(target)});
    let want = [stage("Not Provided. user:a", "t"), stage("old assistant:b user:c", "s")];
    assert_eq!(rl["stages"], json!(want));
    let teach = render("teach", json!({"past": "old", "query": "q", "item_a": "x", "item_b": "y"}));
    assert_eq!(teach["messages"][0], turn("user", &format!("old {all} q x y")));
    let direct = render("eval", json!({"setting": "direct", "query": "q", "item_a": "x", "item_b": "y"}));
    assert_eq!(direct["messages"][0], turn("user", &format!(" {all} q x y")));
    let both = json!({"interactions": [interaction("a")], "messages": messages}).to_string();
    let arguments = ["prompts", "render", "--prompts", "plain", "--kind", "eval"];
    refused(&arguments, &both, 3, &["standard input:1", "`messages` is given beside `interactions`"]);
    let late = json!({"uid": "u", "messages": messages, "stage_targets": targets, "mid_position": 3}).to_string();
    let arguments = ["prompts", "render", "--prompts", "plain", "--kind", "rl"];
    refused(&arguments, &late, 3, &["standard input:1", "`messages` is too short for two stages"]);
}

#[test]
fn invalid_rows_are_named_by_line_and_field() {
    let parse = ["judge", "--parse"];
    refused(&parse, "{\"text\": \"A\"}\n\n{\"txt\": \"A\"}\n", 3, &["standard input:3", "`txt`", "expected one of"]);
    refused(&parse, "{\"text\": \"A\", \"tokens\": []}", 3, &["standard input:1", "`tokens`", "exactly one"]);
    let tokens = "{\"tokens\": [{\"token\": \"A\", \"logprob\": \"x\"}]}";
    refused(&parse, tokens, 3, &["`tokens[0].logprob`", "expected f32"]);
    refused(&parse, "{\"text\": \"A\", \"mode\": \"forced\"}", 3, &["standard input:1", "`mode`", "--protocol ours"]);
    refused(&parse, "", 3, &["standard input has no rows"]);
    refused(&["judge"], "", 2, &["--parse"]);
    refused(&["reward", "--gate", "strict"], "{\"text\": 3}", 3, &["standard input:1", "`text`", "expected a string"]);
    let eval = ["prompts", "render", "--prompts", "plain", "--kind", "eval"];
    let row = "{\"interactions\": [{\"chosen\": \"a\"}], \"past\": \"old\"}";
    refused(&eval, row, 3, &["standard input:1", "`past`", "`streaming`"]);
    refused(&eval, "{\"interactions\": []}", 3, &["`interactions` is missing or empty"]);
    let short = json!({"uid": "u", "history": [interaction("a")], "targets": [interaction("t")]}).to_string();
    refused(&["eval", "--plan"], &short, 3, &["standard input:1", "`history` has 1 interactions", "at least 2"]);
    refused(&["eval", "--limit", "3", "--config", "eval.toml"], "", 2, &["--plan"]);
    let config = "../configs/rl-alignxplore-plus.toml";
    refused(&["rl", "--config", config, "--input", "rows.jsonl"], "", 2, &["only for --batches"]);
}

#[test]
fn files_replace_standard_input_and_output() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("rows.jsonl"), "{\"text\": \"<think>a</think>b\"}\n").unwrap();
    let arguments = ["reward", "--gate", "published", "--input", "rows.jsonl", "--out", "found.jsonl"];
    let (out, said, code) = run_in(place.path(), &arguments, "");
    assert_eq!((code, out.as_str()), (0, ""), "{said}");
    // The keys are in the documented order.
    let want = "{\"well_formed\":true,\"reasoning\":\"a\",\"summary\":\"b\",\"past_summary\":\"b\"}\n";
    assert_eq!(fs::read_to_string(place.path().join("found.jsonl")).unwrap(), want);
    let (_, said, code) = run_in(place.path(), &["reward", "--gate", "published", "--input", "none.jsonl"], "");
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("none.jsonl"), "{said}");
}
