//! Tests of the page and the figure on synthetic runs. Both are written to `tmp/report` in the target folder for
//! inspection.

mod made_up;

use std::fs;
use std::path::{Path, PathBuf};

use evals::{ExplainedSentence, ExplainedSummary, SentenceGain};
use report::{PromptSetId, PromptUse, ReportError};

/// Creates an empty folder under the target folder.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn page(runs: &[PathBuf], out: &Path) -> String {
    report::write(runs, out).unwrap();
    fs::read_to_string(out).unwrap()
}

fn error(run: &Path) -> String {
    let out = run.join("report.html");
    let error = report::write(&[run.to_owned()], &out).unwrap_err();
    assert!(!out.exists(), "a failed report must leave no page");
    error.to_string()
}

#[test]
fn a_whole_run_has_every_section() {
    let folder = folder("whole");
    let run = folder.join("quickstart");
    made_up::run(&run, 0, 0.0);
    let html = page(std::slice::from_ref(&run), &run.join("report.html"));
    let expected = [
        "<h1>quickstart</h1>",
        "in-domain targets, training judge",
        "transfer targets, second judge",
        "RL over SFT",
        "After SFT",
        "After RL",
        "Prefers in-depth, long items on science.",
        "History (3 interactions)",
        "Reward <",
        "Entropy",
        "Length",
        "Streaming credit",
        "seconds per step",
        "Training judge: loss",
        "Second judge: loss",
        "SFT: loss",
        "learning_rate = 3e-4",
    ];
    for text in expected {
        assert!(html.contains(text) || html.contains(&text.replace(" <", "</figcaption>")), "no {text:?} on the page");
    }
    assert!(!html.contains("Not in the run folder") && !html.contains("class=\"absent\""));
    // 4 panels; RL: 6 visible, 6 folded; three supervised phases: 1 and 5 each.
    assert_eq!(html.matches("<svg ").count(), 4 + 12 + 3 * 6);
    assert_eq!(html.matches("<svg ").count(), html.matches("</svg>").count());
    // In-domain, full history, training judge: the bar and the table match eval.json.
    let rows: Vec<report::AccuracyRow> =
        serde_json::from_str(&fs::read_to_string(run.join("eval.json")).unwrap()).unwrap();
    for row in rows {
        assert!(html.contains(&format!("{:.1}", 100.0 * row.accuracy)), "{row:?}");
    }
    let left: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), made_up::FILES.len() + 1, "no partial file may stay: {left:?}");
}

#[test]
fn what_users_and_models_wrote_is_escaped() {
    let folder = folder("escaped");
    let run = folder.join("<script>run</script>".replace('/', "|"));
    made_up::run(&run, 0, 0.0);
    fs::write(run.join("config.toml"), "name = \"</pre><script>alert('config')</script>\"\n").unwrap();
    let row = "{\"phase\":\"<script>p\",\"step\":1,\"<script>alone\":1,\"<script>a/<script>b\":2}\n";
    fs::write(run.join("metrics.jsonl"), format!("{row}{}", row.replace(":1,", ":2,"))).unwrap();
    let html = page(&[run], &folder.join("report.html"));
    assert!(!html.contains("<script"), "unescaped");
    assert!(!html.contains("<img"), "unescaped");
    assert!(html.contains("&lt;script&gt;alert(&#x27;summary&#x27;)&lt;&#x2f;script&gt;"), "the text itself is shown");
    assert!(html.contains("cheap &amp; cheerful; &lt;b&gt;short"));
}

#[test]
fn nothing_is_fetched() {
    let folder = folder("offline");
    let run = folder.join("run");
    made_up::run(&run, 0, 0.0);
    let html = page(std::slice::from_ref(&run), &folder.join("report.html"));
    report::figure(&run, &folder.join("figure.svg")).unwrap();
    let svg = fs::read_to_string(folder.join("figure.svg")).unwrap();
    for text in [&html, &svg] {
        let rest = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for reference in ["http://", "https://", "src=", "url(", "@import", "<link", "<script", "<iframe"] {
            // Escaping keeps `src=` in the example's text; there it follows `&lt;img`.
            let found = rest.matches(reference).count() - rest.matches(&format!("&lt;img {reference}")).count();
            assert_eq!(found, 0, "{reference} on the page");
        }
        assert!(text.matches("href=\"").count() == text.matches("href=\"#").count(), "a link leads off the page");
    }
}

#[test]
fn each_missing_file_is_named_and_no_error() {
    for gone in made_up::FILES {
        let folder = folder(&format!("without-{gone}"));
        made_up::run(&folder, 0, 0.0);
        fs::remove_file(folder.join(gone)).unwrap();
        let html = page(std::slice::from_ref(&folder), &folder.join("report.html"));
        let note = html.split("Not in the run folder").nth(1).expect("a note on what is missing");
        let note = note.split("</p>").next().unwrap();
        for file in made_up::FILES {
            assert_eq!(note.contains(&format!("<code>{file}</code>")), file == gone, "{gone}: {note}");
        }
        assert!(html.contains("class=\"absent\""), "the section of {gone} must say so too");
    }
}

#[test]
fn a_folder_without_a_run_is_an_error_that_says_what_was_looked_for() {
    let folder = folder("nothing");
    let error = error(&folder);
    assert!(error.contains(&folder.display().to_string()) && error.contains("metrics.jsonl, eval.json"), "{error}");
    assert!(matches!(report::write(&[], &folder.join("report.html")), Err(ReportError::NoRuns)));
}

#[test]
fn malformed_files_are_named_with_file_and_line() {
    let cases = [
        ("metrics.jsonl", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":2\n", "metrics.jsonl:2: not a JSON object"),
        ("metrics.jsonl", "{\"step\":1,\"loss\":2}\n\n{\"loss\":2}\n", "metrics.jsonl:3: field `step` is missing"),
        ("eval.json", "[\n {\"model\": \"sft\",\n  \"setting\": \"fast\"}\n]", "eval.json:3: unknown variant `fast`"),
        ("eval.json", "{}", "eval.json:1: "),
        ("eval-gains.json", "[\n {\"setting\": \"full\"}\n]", "eval-gains.json:2: missing field `targets`"),
        ("examples.json", "[{\"uid\": \"a\",\n\"truth\": 3}]", "examples.json:2: invalid type: integer `3`"),
        ("prompts.json", "[\n {\"key\": \"prompts\"}\n]", "prompts.json:2: missing field `named`"),
    ];
    for (index, (file, text, expected)) in cases.into_iter().enumerate() {
        let folder = folder(&format!("malformed-{index}"));
        made_up::run(&folder, 0, 0.0);
        fs::write(folder.join(file), text).unwrap();
        let error = error(&folder);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_where_they_stand() {
    let row = |accuracy: &str, low: &str| {
        format!(
            "[{{\"model\":\"rl\",\"setting\":\"full\",\"targets\":\"in_domain\",\"judge\":\"training\",\n\
             \"accuracy\":{accuracy},\n\"ci_low\":{low},\"ci_high\":0.8,\"users\":9,\"targets_judged\":9}}]"
        )
    };
    for (text, expected) in [
        (row("71.4", "0.6"), "eval.json:2: found 71.4; expected a fraction from 0 to 1"),
        (row("0.7", "-0.1"), "eval.json:3: found -0.1; expected a fraction from 0 to 1"),
    ] {
        let folder = folder("out-of-range");
        fs::write(folder.join("eval.json"), text).unwrap();
        let error = error(&folder);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_wording_that_a_model_was_not_trained_on_is_a_warning() {
    let run = folder("wording");
    made_up::run(&run, 0, 0.0);
    let id = |name: &str, digit: &str| PromptSetId { name: name.into(), hash: digit.repeat(64) };
    let mut used = PromptUse {
        key: "judge.prompts".into(),
        named: true,
        model: "<judge>".into(),
        used: id("plain", "a"),
        trained: Some(id("compact", "b")),
        differ: vec!["judge.j2".into(), "judge.system.j2".into()],
    };
    let html = |used: &PromptUse| {
        fs::write(run.join("prompts.json"), serde_json::to_string(&[used]).unwrap()).unwrap();
        page(std::slice::from_ref(&run), &run.join("report.html"))
    };
    let warned = html(&used);
    for text in [
        "<p class=\"warning\"><strong>Prompt wording:</strong> judge.prompts: the wording is not the one that &lt;judge&gt;",
        "judge.j2, judge.system.j2 of `plain` (aaaaaaaaaaaa) differ from `compact` (bbbbbbbbbbbb)",
        "remove `judge.prompts`",
        &"a".repeat(64),
        &"b".repeat(64),
    ] {
        assert!(warned.contains(text), "no {text:?} on the page");
    }
    used.differ.clear();
    let same = html(&used);
    assert!(!same.contains("class=\"warning\"") && same.contains(&"b".repeat(64)));
}

/// Returns an explained summary of two sentences, of which the first earns and the second costs.
fn explained(uid: &str, [first, second]: [&str; 2]) -> ExplainedSummary {
    let sentence = |text: &str, gain: f64| ExplainedSentence {
        text: text.into(),
        gains: vec![SentenceGain {
            judge: "second".into(),
            domain: "news".into(),
            targets: 2,
            p_chosen: 0.75,
            p_without: 0.75 - gain,
            gain,
        }],
    };
    let sentences = vec![sentence(first, 0.125), sentence(second, -0.0625)];
    ExplainedSummary { uid: uid.into(), summary: format!("{first}{second}"), sentences }
}

#[test]
fn examples_are_shaded_by_what_their_sentences_earn() {
    let run = folder("explained");
    made_up::run(&run, 0, 0.0);
    let plain = page(std::slice::from_ref(&run), &run.join("report.html"));
    assert!(!plain.contains("class=\"gain\"") && !plain.contains("Shading shows"));
    // The second is not the summary of an example.
    let list = [
        explained("user-0412", ["The user likes science. ", "They prefer formal items."]),
        explained("user-0412", ["Something else. ", "And more."]),
    ];
    fs::write(run.join(report::EXPLAIN), serde_json::to_string(&list).unwrap()).unwrap();
    let html = page(std::slice::from_ref(&run), &run.join("report.html"));
    assert_eq!(html.matches("class=\"gain\"").count(), 2);
    for text in [
        "rgba(47, 158, 110, 0.50)\" title=\"second, news: +12.5 points (2 targets)\">The user likes science. </span>",
        "rgba(209, 77, 114, 0.25)\" title=\"second, news: −6.2 points (2 targets)\">They prefer formal items.</span>",
        "Shading shows",
    ] {
        assert!(html.contains(text), "no {text:?} on the page");
    }
    fs::write(run.join(report::EXPLAIN), "[\n{\"uid\": 3}]").unwrap();
    let error = report::write(std::slice::from_ref(&run), &run.join("report.html")).unwrap_err().to_string();
    assert!(error.contains("explain.json:2: invalid type: integer `3`"), "{error}");
}

#[test]
fn an_attribution_has_a_page_of_its_own() {
    let out = folder("attribution").join("explain.html");
    let list = [explained("<b>a</b>", ["Likes <i>space</i>. ", "Avoids jazz."])];
    report::explained(&list, &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    assert_eq!(html.matches("class=\"gain\"").count(), 2);
    // (12.5 − 6.25) / 2 a sentence; one of two helps, and one hurts.
    for text in ["<td>second</td><td>news</td>", "<strong>+3.1</strong>", "&lt;i&gt;space", "stands for 12.5 points"] {
        assert!(html.contains(text), "no {text:?} on the page");
    }
    assert!(!html.contains("<i>") && !html.contains("<b>"));
}

#[test]
fn several_runs_share_charts_and_keep_their_names_apart() {
    let folder = folder("several");
    let runs = ["a/base", "b/base", "b/no-format"].map(|name| folder.join(name));
    for (seed, run) in runs.iter().enumerate() {
        made_up::run(run, seed as u64, 0.02 * seed as f64);
    }
    fs::remove_file(runs[2].join("eval.json")).unwrap();
    let html = page(&runs, &folder.join("report.html"));
    for name in ["a&#x2f;base", "b&#x2f;base", "no-format"] {
        assert!(html.contains(&format!("<h3>{name}</h3>")), "no heading {name}");
    }
    assert!(html.contains("No evaluation of no-format"));
    // One chart per metric, with every run in its legend.
    let judge = html.split("<figcaption>Reward: judge").nth(1).expect("a chart of its own");
    let judge = judge.split("</figure>").next().unwrap();
    assert_eq!(judge.matches("<li>").count(), 3);
    assert_eq!(judge.matches("opacity=\"0.28\"").count(), 3, "a faint line for each run");
    assert_eq!(judge.matches("stroke-width=\"8\"").count(), 3, "a strong line for each run");
}

#[test]
fn the_picture_shows_both_halves_on_white() {
    let folder = folder("figure");
    made_up::run(&folder, 0, 0.0);
    let out = folder.join("figure.svg");
    report::figure(&folder, &out).unwrap();
    let svg = fs::read_to_string(&out).unwrap();
    for text in ["full history", "streaming", "SFT", "RL", "oracle", "reward/total", "chance", "fill=\"#FFFFFF\""] {
        assert!(svg.contains(text), "no {text:?} in the picture");
    }
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\""));
    assert!(!svg.contains("random user"), "only the models that the picture is about");
}

#[test]
fn a_run_too_thin_for_the_picture_says_what_it_lacks() {
    let folder = folder("no-figure");
    made_up::run(&folder, 0, 0.0);
    fs::remove_file(folder.join("eval.json")).unwrap();
    let no_eval = report::figure(&folder, &folder.join("figure.svg")).unwrap_err().to_string();
    assert!(no_eval.contains("eval.json needs rows"), "{no_eval}");
    made_up::run(&folder, 0, 0.0);
    fs::write(folder.join("metrics.jsonl"), "{\"step\":1,\"loss\":2}\n").unwrap();
    let no_rl = report::figure(&folder, &folder.join("figure.svg")).unwrap_err().to_string();
    assert!(no_rl.contains("metrics.jsonl needs `reward/total`"), "{no_rl}");
}

#[test]
fn an_unwritable_place_is_named() {
    let folder = folder("unwritable");
    made_up::run(&folder, 0, 0.0);
    let file = folder.join("config.toml");
    let error = report::write(std::slice::from_ref(&folder), &file.join("report.html")).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("report.html"), "{error}");
}

#[test]
fn both_judges_of_the_alarm_share_a_chart() {
    let folder = folder("alarm");
    let line = |step: u64, training: f64, raised: u8| {
        format!(
            "{{\"phase\":\"rl\",\"step\":{step},\"reward/total\":{training},\"alarm/training\":{training},\"alarm/held_out\":0.5,\
             \"alarm_signs/overlap\":0.1,\"alarm_signs/position_bias\":null,\"alarm_raised\":{raised}}}\n"
        )
    };
    fs::write(folder.join("metrics.jsonl"), [line(10, 0.5, 0), line(20, 0.75, 1)].concat()).unwrap();
    let html = page(std::slice::from_ref(&folder), &folder.join("report.html"));
    let chart = html.split("<figcaption>Training and held-out judge").nth(1).expect("a chart of both judges");
    let chart = &chart[..chart.find("</figure>").unwrap()];
    assert!(chart.contains("</span>training</li>") && chart.contains("</span>held out</li>"), "{chart}");
    assert!(chart.matches("<polyline").count() >= 2, "{chart}");
    assert!(html.contains("Signs of reward hacking") && html.contains("Alarms"));
}
