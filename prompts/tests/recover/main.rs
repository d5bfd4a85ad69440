//! Recovers templates from rows that templates of different styles rendered: with unknown values, with known ones, and
//! where the rows leave something open.

mod fixture;

use std::collections::BTreeMap;

use chat::{Interaction, PromptSet};
use prompts::recover::RecoverError;
use serde_json::{Value as Json, json};

use fixture::{Random, assert_same, recover, set, sft_row, users};

const HEADINGS: &str = "# What is known\n{{ past }}\n\n# Choices, oldest first\n{% for i in interactions %}\n\n\
    ## Choice {{ loop.index }}\n{% if i.query %}\nSituation: {{ i.query }}\n{% endif %}\nChosen: {{ i.chosen }}\n\
    Rejected: {{ i.rejected }}\n\n{% endfor %}\n\n# Task\nReason in <think>, then write.\n";

const SIGNS: &str = "Known: {{ past }}\nLog, oldest first:\n{% for i in interactions %}\n? {{ i.query }}\n\
    + {{ i.chosen }}\n- {{ i.rejected }}\n{% endfor %}\nWrite it as {{ '{{' }}summary}} with no {{ '{%' }} tag %} and \
    no {{ '{#' }} note #}, as {\"text\": {}}.\n";

const QUOTES: &str = "Past: \"{{ past }}\"   \n{% for i in interactions %}\nChoice {{ loop.index }} ({{ i.query }}): \
    chose \"{{ i.chosen }}\" rather than \"{{ i.rejected }}\".  \n{% endfor %}\nSummarize as {\"text\": ...}  \n";

const TAGS: &str = "Earlier notes: {{ past }}\r\n\r\nEVENTS\r\n{% for i in interactions %}\r\n\
    <event id={{ loop.index0 }}>\r\n<query>{{ i.query }}</query>\r\n<chosen>{{ i.chosen }}</chosen>\r\n\
    <rejected>{{ i.rejected }}</rejected>\r\n</event>\r\n{% endfor %}\r\n\r\nEnd. \r\n";

const SEPARATORS: &str = "Pairs: {% for i in interactions %}{% if not loop.first %}; {% endif %}\
    chosen [{{ i.chosen }}] rejected [{{ i.rejected }}]{% endfor %}. So far: <<{{ past }}>>\nGo on.\n";

/// Styles: user template, system template, whether some interactions lack a query.
const STYLES: [(&str, Option<&str>, bool); 5] = [
    (HEADINGS, Some("You work it out.\n"), true),
    (SIGNS, None, false),
    (QUOTES, Some("You are {helpful}.  \n"), false),
    (TAGS, Some("System\r\n\r\n"), false),
    (SEPARATORS, None, false),
];

fn sft_rows(truth: &PromptSet, seed: u64, number: usize, lacks_query: bool) -> Vec<Json> {
    let row = |(past, mut interactions): (Option<String>, Vec<Interaction>)| {
        if lacks_query {
            interactions.iter_mut().skip(1).step_by(3).for_each(|item| item.query = None);
        }
        sft_row(&truth.summarize(past.as_deref(), &interactions).unwrap())
    };
    users(seed, number).into_iter().map(row).collect()
}

#[test]
fn templates_of_every_style_are_recovered_from_text_alone() {
    for (user, system, lacks_query) in STYLES {
        let truth = set(user, system);
        for seed in [1, 2, 3] {
            let rows = sft_rows(&truth, seed, 24, lacks_query);
            let recovered = recover(&rows, &[]).unwrap_or_else(|e| panic!("{user}: {e}"));
            assert_eq!(recovered.prompts, 24);
            assert_eq!(recovered.templates.contains_key("summarize.system.j2"), system.is_some());
            assert_same(&recovered, &truth, lacks_query);
        }
    }
}

#[test]
fn a_recovered_template_is_written_as_one_would_write_it() {
    let recovered = recover(&sft_rows(&set(HEADINGS, None), 1, 24, true), &[]).unwrap();
    assert_eq!(recovered.templates, BTreeMap::from([("summarize.j2".to_string(), HEADINGS.to_string())]));
    let folder = tempfile::tempdir().unwrap();
    recovered.write(folder.path()).unwrap();
    assert_eq!(configs::prompts::sources(folder.path().to_str().unwrap()).unwrap(), recovered.templates);
}

/// Rows of the format that the release passes to verl: three prompts, of the parts of one history.
fn rl_rows(truth: &PromptSet, seed: u64, number: usize, absent: impl Fn(usize, &mut Interaction)) -> Vec<Json> {
    let mut random = Random(seed);
    (0..number)
        .map(|user| {
            let mut history = random.interactions(8);
            history.iter_mut().enumerate().for_each(|(index, item)| absent(index, item));
            let prompts: Vec<_> = [&history[..4], &history[4..7], &history[..7]]
                .map(|part| truth.summarize(None, part).unwrap().pop().unwrap())
                .into();
            json!({
                "data_source": "upi", "prompt": prompts, "ability": "x",
                "extra_info": { "userid": user.to_string(), "index": user, "mid_position": 4, "history": history }
            })
        })
        .collect()
}

#[test]
fn known_values_give_the_template_even_from_one_row() {
    for (user, _, lacks_query) in STYLES {
        let truth = set(user, None);
        let absent = |index: usize, item: &mut Interaction| {
            if lacks_query && index % 3 == 1 {
                item.query = None;
            }
        };
        for number in [1, 12] {
            let recovered = recover(&rl_rows(&truth, 5, number, absent), &[]).unwrap_or_else(|e| panic!("{user}: {e}"));
            assert_eq!(recovered.prompts, 3 * number);
            assert_same(&recovered, &truth, lacks_query);
        }
    }
}

#[test]
fn texts_in_place_of_absent_values_are_recovered() {
    let sources = configs::prompts::sources("plain").unwrap();
    let truth = PromptSet::new("plain", &sources).unwrap();
    let rows: Vec<Json> = users(9, 24)
        .into_iter()
        .map(|(past, mut history)| {
            // The first three have all values.
            history.iter_mut().skip(3).take(1).for_each(|item| item.query = None);
            history.iter_mut().skip(4).take(1).for_each(|item| item.rejected = None);
            let prompt = truth.summarize(past.as_deref(), &history).unwrap();
            json!({ "messages": prompt, "past": past, "interactions": history })
        })
        .collect();
    let recovered = recover(&rows, &[]).unwrap();
    assert_same(&recovered, &truth, true);
    assert_eq!(recovered.templates["summarize.system.j2"], sources["summarize.system.j2"]);
    assert!(recovered.templates["summarize.j2"].contains("(unknown)"), "{:#?}", recovered.templates);
    assert_eq!(recovered.notes, Vec::<String>::new());
}

#[test]
fn judge_templates_are_recovered_from_known_values() {
    let sources = configs::prompts::sources("plain").unwrap();
    let truth = PromptSet::new("plain", &sources).unwrap();
    let mut random = Random(4);
    let rows: Vec<Json> = (0..12)
        .map(|row| {
            let item = random.interactions(1).remove(0);
            let (preference, query) = (random.past(), item.query.filter(|_| row % 3 > 0));
            let item_b = item.rejected.unwrap();
            let messages = truth.judge(query.as_deref(), &preference, &item.chosen, &item_b).unwrap();
            json!({
                "messages": messages, "query": query, "preference": preference, "item_a": item.chosen, "item_b": item_b
            })
        })
        .collect();
    let recovered = recover(&rows, &[]).unwrap();
    assert_eq!(recovered.templates.keys().collect::<Vec<_>>(), ["judge.j2", "judge.system.j2"]);
    let set = PromptSet::new("recovered", &recovered.templates).unwrap();
    for query in [None, Some("new?")] {
        assert_eq!(
            set.judge(query, "p", "a\n", "{{ b }}").unwrap(),
            truth.judge(query, "p", "a\n", "{{ b }}").unwrap()
        );
    }
}

/// An example with the values of row `row` of [`users`].
fn example(seed: u64, row: usize) -> Json {
    let (past, interactions) = users(seed, row + 1).remove(row);
    json!({ "row": row + 1, "past": past, "interactions": interactions })
}

/// A row of [`users`] with at least two interactions and a past summary.
fn rich(seed: u64) -> usize {
    let rich = |(past, interactions): &(Option<String>, Vec<Interaction>)| past.is_some() && interactions.len() > 2;
    users(seed, 24).iter().position(rich).unwrap()
}

#[test]
fn what_rows_leave_open_is_reported_and_settled_by_an_example() {
    for (user, words) in [
        // Nothing calls one item chosen.
        (
            "Past \"{{ past }}\"\n{% for i in interactions %}\n{{ i.query }} | {{ i.chosen }} / {{ i.rejected }}\n\
             {% endfor %}\nGo.\n",
            "which part",
        ),
        // A period may end every item.
        (
            "Past \"{{ past }}\"\n{% for i in interactions %}\nQuery: {{ i.query }}; chosen: {{ i.chosen }}; rejected: \
             {{ i.rejected }}.\n{% endfor %}\n\nGo.\n",
            "whether \".\", after every value of `rejected`",
        ),
        // The parts of an item may belong to the template.
        (
            "Past \"{{ past }}\"\n{% for i in interactions %}\nQuery: {{ i.query }}\n<chosen>Title: {{ i.chosen }}\n\
             About: {{ i.chosen }}</chosen>\n<rejected>{{ i.rejected }}</rejected>\n{% endfor %}\nGo.\n",
            "varying parts",
        ),
    ] {
        let truth = set(user, None);
        let rows = sft_rows(&truth, 6, 24, false);
        let error = recover(&rows, &[]).unwrap_err();
        assert!(matches!(error, RecoverError::Ambiguous { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("--example"), "{text}");
        if !user.contains("Title") {
            assert_same(&recover(&rows, &[example(6, rich(6))]).unwrap(), &truth, false);
        }
    }
}

#[test]
fn one_row_without_values_is_ambiguous() {
    let truth = set(QUOTES, None);
    let row = rich(8);
    let rows = [sft_rows(&truth, 8, 24, false).remove(row)];
    let error = recover(&rows, &[]).unwrap_err().to_string();
    assert!(error.contains("all rows are the same") && error.contains("--example"), "{error}");
    let mut example = example(8, row);
    example["row"] = json!(1);
    assert_same(&recover(&rows, &[example]).unwrap(), &truth, false);
}

#[test]
fn rows_that_all_lack_a_past_summary_are_ambiguous() {
    let truth = set(TAGS, None);
    let rows: Vec<Json> =
        users(3, 24).iter().map(|(_, history)| sft_row(&truth.summarize(None, history).unwrap())).collect();
    let error = recover(&rows, &[]).unwrap_err().to_string();
    assert!(error.contains("\"Not Provided.\", which every row has"), "{error}");
    let mut example = example(3, rich(3));
    example["past"] = Json::Null;
    assert_same(&recover(&rows, &[example]).unwrap(), &truth, false);
}

#[test]
fn a_row_of_another_template_is_reported_with_the_position() {
    let truth = set(HEADINGS, None);
    let mut rows = rl_rows(&truth, 2, 8, |_, _| {});
    let text = rows[5]["prompt"][1]["content"].as_str().unwrap().replace("# Task", "# Job");
    let position = text.find("Job").unwrap();
    rows[5]["prompt"][1]["content"] = json!(text);
    match recover(&rows, &[]).unwrap_err() {
        RecoverError::Differs { place, turn, position: found, expected, found: text } => {
            assert!(place.ends_with("rows.jsonl, line 6"), "{place}");
            assert_eq!((turn, found), ("user", position));
            assert!(expected.starts_with("Task\n") && text.starts_with("Job\n"), "{expected:?} {text:?}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn invalid_rows_and_examples_are_refused() {
    let truth = set(HEADINGS, Some("System"));
    let mut rows = sft_rows(&truth, 1, 6, false);
    let error =
        recover(&rows, &[json!({ "row": 99, "past": null, "interactions": [{ "chosen": "a" }, { "chosen": "b" }] })]);
    assert!(error.unwrap_err().to_string().contains("no row 99"));
    let wrong = json!({ "row": 1, "past": null, "interactions": [{ "chosen": "a" }, { "chosen": "not there" }] });
    let error = recover(&rows, &[wrong]).unwrap_err().to_string();
    assert!(error.contains("line 1: the chosen item") && error.contains("is not in the prompt"), "{error}");
    rows[3]["prompt"].as_array_mut().unwrap().remove(0);
    let error = recover(&rows, &[]).unwrap_err().to_string();
    assert!(error.contains("line 1: has a system turn") && error.contains("line 4 has none"), "{error}");
    assert!(recover(&[], &[]).unwrap_err().to_string().contains("has no rows"));
}
