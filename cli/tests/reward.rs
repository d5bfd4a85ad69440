//! `xplore reward` on texts and on a small recorded run, and `xplore replay --rejudge`.

use fixtures::bench::Bench;
use fixtures::policy::model_and_rows;
use serde_json::{Value as Json, json};
use tolerance::assert_within;

const MODEL: &str = "model = { path = 'model', dtype = 'fp32', device = 'cpu' }";

/// Returns a folder with a model that is policy and judge, configurations and texts.
fn bench() -> Bench {
    let bench = Bench::new(model_and_rows());
    let config = |terms: &str| {
        format!(
            "threads = 1\nout = 'runs'\nprompts = 'compact'\n{MODEL}\njudge.{MODEL}\njudge.prompts = 'compact'\n\
             data.train = 'rl.jsonl'\nrollout = {{ users_per_step = 2, num_generations = 3, max_prompt_tokens = 400, \
             max_new_tokens = 8 }}\ntrain.steps = 2\nlog.rollouts_every = 1\nalgorithm.num_minibatches = 1\n\
             checkpoint.at_end = false\nreward.terms = [{terms}]\n"
        )
    };
    bench.write("rl.toml", &config("{ name = 'judge' }, { name = 'brevity', weight = 0.5 }"));
    bench.write("format.toml", &config("{ name = 'format' }"));
    bench.write("against.toml", &config("{ name = 'judge', weight = -1.0 }"));
    let row = |uid: &str, text: &str, tokens: usize| {
        let target = json!({"query": "which?", "chosen": "warm stories", "rejected": "dry reports"});
        json!({"uid": uid, "text": text, "tokens": tokens, "targets": [target]}).to_string() + "\n"
    };
    let texts = [
        row("a", "<think>warm</think> likes warm stories", 2),
        row("a", "<think>dry</think> likes dry reports about finance", 4),
        row("a", "no tags at all", 6),
        row("b", "<think>boats</think> quiet boats at night", 4),
        row("b", "<think>space</think> long stories about space", 8),
    ];
    bench.write("texts.jsonl", &texts.concat());
    bench
}

const TEXTS: [&str; 5] = ["reward", "--config", "rl.toml", "--rollouts", "texts.jsonl"];

#[test]
fn texts_get_terms_totals_and_advantages() {
    let bench = bench();
    let found = bench.json(&[&TEXTS[..], &["--json"]].concat());
    assert_eq!((&found["groups"], &found["verdicts"]), (&json!(2), &json!("asked")));
    let rows = found["responses"].as_array().unwrap();
    let number = |row: &Json, key: &str| row[key].as_f64().unwrap();
    let formed: Vec<bool> = rows.iter().map(|row| row["well_formed"].as_bool().unwrap()).collect();
    assert_eq!(formed, [true, true, false, true, true]);
    // Brevity is 1 − tokens / 8; it has the weight 0.5.
    for (row, brevity) in rows.iter().zip([0.75, 0.5, 0.25, 0.5, 0.0]) {
        assert_within!(row["terms"]["brevity"].as_f64().unwrap() - brevity, 1e-12);
        let judge = row["p_chosen"].as_f64().unwrap_or(0.0);
        assert_within!(row["terms"]["judge"].as_f64().unwrap() - judge, 1e-12);
        let expected = if row["well_formed"] == json!(true) { judge + 0.5 * brevity } else { 0.0 };
        assert_within!(number(row, "reward") - expected, 1e-12);
        let parts = row["parts"]["judge"].as_f64().unwrap() + row["parts"]["brevity"].as_f64().unwrap();
        assert_within!(parts - expected, 1e-12);
    }
    // Two rewards r < s have the advantages ∓(s − r) / 2 over a deviation of (s − r) / √2, plus 1e-6.
    let (first, second) = (number(&rows[3], "reward"), number(&rows[4], "reward"));
    let gap = (first - second).abs();
    let expected = (first - second) / 2.0 / (gap / 2f64.sqrt() + 1e-6);
    assert_within!(number(&rows[3], "advantage") - expected, 1e-9);
    assert_within!(number(&rows[4], "advantage") + expected, 1e-9);

    let shown = bench.shown(&[&TEXTS[..], &["--histograms", "--list", "2"]].concat());
    for words in ["2 groups", "4 well-formed", "asked now", "Spearman", "brevity", "█", "advantage", "3 more responses"]
    {
        assert!(shown.contains(words), "`{words}` is missing in\n{shown}");
    }
}

#[test]
fn the_messages_of_a_text_are_what_it_was_written_from() {
    let bench = bench();
    let terms = "reward.terms=[{name='copying', params={n=2}}]";
    let target = json!({"query": "which?", "chosen": "warm stories", "rejected": "dry reports"});
    let messages =
        json!([{"role": "user", "content": "warm stories"}, {"role": "assistant", "content": "about space"}]);
    let text = "<think>warm</think> warm stories about space";
    let row = json!({"uid": "m", "text": text, "messages": messages, "targets": [target]});
    bench.write("said.jsonl", &format!("{row}\n{row}\n"));
    let found = bench.json(&["reward", "--config", "rl.toml", "--set", terms, "--rollouts", "said.jsonl", "--json"]);
    // Of the pairs of words, `stories about` is in no message.
    assert_within!(found["responses"][0]["terms"]["copying"].as_f64().unwrap() - 2.0 / 3.0, 1e-12);
}

#[test]
fn comparing_counts_flips_and_lost_signals() {
    let bench = bench();
    let compare = |first: &str, second: &str| {
        let arguments = ["reward", "--compare", first, second, "--rollouts", "texts.jsonl", "--json"];
        bench.json(&arguments)["difference"].clone()
    };
    // All rewards differ: 3 pairs in group a, 1 in group b. The malformed response has 0, which is the most by the first reward and
    // the least by the second, so at least its two pairs flip.
    let found = compare("against.toml", "rl.toml");
    assert_eq!(found["pairs"], json!(4));
    assert!(found["flips"].as_u64().unwrap() >= 2, "{found}");
    // All well-formed responses have the same format: group b has no signal, and group a only that of its malformed response.
    let found = compare("rl.toml", "format.toml");
    assert_eq!((&found["groups"], &found["lose_signal"], &found["gain_signal"]), (&json!(2), &json!(1), &json!(0)));
    assert_eq!(found["different"].as_array().unwrap().iter().filter(|g| g["loses_signal"] == json!(true)).count(), 1);
    let found = compare("rl.toml", "rl.toml");
    assert_eq!((&found["flips"], &found["different"]), (&json!(0), &json!([])));
    let arguments = ["reward", "--compare", "rl.toml", "format.toml", "--rollouts", "texts.jsonl"];
    let shown = bench.shown(&arguments);
    assert!(shown.contains("rank flips") && shown.contains("lost"), "{shown}");
}

#[test]
fn a_recorded_run_is_scored_compared_and_judged_again() {
    let bench = bench();
    bench.shown(&["rl", "--config", "rl.toml"]);
    let run = ["reward", "--config", "rl.toml", "--rollouts", "runs/rl"];
    let found = bench.json(&[&run[..], &["--json"]].concat());
    // 2 users × (1 group of 3 + 1 group of 3) in each of 2 steps. The run had the same judge.
    assert_eq!((&found["groups"], &found["verdicts"]), (&json!(8), &json!("recorded")));
    let rows = found["responses"].as_array().unwrap();
    let log = bench.read("runs/rl/rollouts/step-000001.jsonl");
    for (row, line) in rows.iter().zip(log.lines()) {
        let line: Json = serde_json::from_str(line).unwrap();
        for key in ["uid", "reward", "credited", "advantage", "terms"] {
            assert_eq!(row[key], line[key], "{key}");
        }
    }
    let one = bench.json(&[&run[..], &["--step", "2", "--json"]].concat());
    assert_eq!(one["responses"].as_array().unwrap().len(), 12);
    let file = ["reward", "--config", "rl.toml", "--rollouts", "runs/rl/rollouts/step-000002.jsonl", "--json"];
    assert_eq!(bench.json(&file), one);
    // Another judge is asked.
    let other = bench.json(&[&run[..], &["--set", "judge.orders=one", "--json"]].concat());
    assert_eq!(other["verdicts"], json!("asked"));

    // The random policy writes no tags, so that only credit tells its responses apart.
    let found = bench.json(&[&run[..], &["--step", "2", "--gradients", "--json"]].concat());
    let gradients = &found["gradients"];
    assert_eq!(gradients["names"], json!(["judge", "brevity", "total"]));
    let norms: Vec<f64> = gradients["norms"].as_array().unwrap().iter().map(|norm| norm.as_f64().unwrap()).collect();
    assert!(norms[0] == 0.0 && norms[1] == 0.0 && norms[2] > 0.0, "{norms:?}");
    assert_eq!((&gradients["passes"], &gradients["cosines"][0][2]), (&json!(1), &Json::Null));
    bench.refused(&[&run[..], &["--gradients"]].concat(), 2, &["--gradients takes one step", "--step N"]);
    bench.refused(&[&run[..], &["--step", "3"]].concat(), 3, &["step 3 was not recorded", "1, 2"]);

    let replay = ["replay", "--run", "runs/rl", "--step", "2", "--json"];
    let recorded = bench.json(&replay);
    assert_eq!(bench.json(&[&replay[..], &["--rejudge"]].concat()), recorded);
    let other = ["--set", "judge.orders=one"];
    bench.refused(&[&replay[..], &other].concat(), 2, &["with --rejudge the judges"]);
    let again = bench.json(&[&replay[..], &["--rejudge"], &other[..]].concat());
    assert_eq!(again["groups"], recorded["groups"]);
    let targets = ["--set", "reward.targets_per_stage=2"];
    bench.refused(&[&replay[..], &targets].concat(), 2, &["targets_per_stage"]);
}

#[test]
fn config_check_prints_when_the_alarm_can_be_raised() {
    let bench = bench();
    let config = format!(
        "prompts = 'compact'\n{MODEL}\ndata.train = 'rl.jsonl'\nrollout = {{ users_per_step = 2, num_generations = 3, \
         max_new_tokens = 8 }}\nalgorithm.num_minibatches = 1\ntrain.steps = 8\nvalidation.every = 1\n[alarm]\njudge = 'far'\n\
         window = 4\n[[judges]]\nname = 'near'\njudge.{MODEL}\njudge.prompts = 'compact'\n[[judges]]\nname = 'far'\nweight = 0\n\
         judge.{MODEL}\njudge.prompts = 'plain'\n"
    );
    bench.write("alarm.toml", &config);
    let check = ["config", "check", "alarm.toml", "--kind", "rl", "--rows", "8"];
    // 8 looks have 5 windows of 4, each with 3 tests: 0.05 / 15.
    let shown = bench.shown(&check);
    assert!(shown.contains("8 looks by `far`, 15 tests at level 3.3e-3, the first after step 4"), "{shown}");
    let shown = bench.shown(&[&check[..], &["--set", "validation.every=4"]].concat());
    assert!(shown.contains("tests nothing: 2 looks, fewer than alarm.window (4)"), "{shown}");
}

#[test]
fn the_forms_exclude_each_other() {
    let bench = bench();
    bench.refused(&["reward", "--gate", "strict", "--config", "rl.toml"], 2, &["cannot be used with"]);
    bench.refused(&["reward"], 2, &["--gate", "--config"]);
    bench.refused(&["reward", "--config", "rl.toml"], 2, &["--rollouts DIR|FILE is missing"]);
    bench.refused(&["reward", "--gate", "strict", "--step", "1"], 2, &["--step is only for --config and --compare"]);
    let histograms = ["reward", "--compare", "rl.toml", "rl.toml", "--rollouts", "texts.jsonl", "--histograms"];
    bench.refused(&histograms, 2, &["--histograms is only for --config"]);
    bench.refused(&[&TEXTS[..], &["--gradients"]].concat(), 3, &["gradients need the tokens of a recorded step"]);
    bench.refused(&[&TEXTS[..], &["--input", "texts.jsonl"]].concat(), 2, &["--input and --out are only for --gate"]);
}
