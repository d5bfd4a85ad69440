//! Imports the prompts of a repository in `tests/release`, which has the files, names and string forms of the release, and
//! sentences of its own. The expected messages are what its Python functions return.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chat::prompts::Candidate;
use chat::{Interaction, Message, PromptSet};
use prompts::import::{self, ImportError};
use tempfile::TempDir;

const REWARD: &str = "verl/verl/utils/reward_score/confidence_upi_streaming.py";
const RL_DATASET: &str = "verl/verl/utils/dataset/upi_dataset.py";
const RL_ROWS: &str = "verl/examples/data_preprocess/upi_streaming_dataset.py";

fn release() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/release")
}

fn sets() -> BTreeMap<&'static str, PromptSet> {
    let sets = import::from_release(&release()).unwrap_or_else(|e| panic!("{e}"));
    sets.into_iter().map(|set| (set.name, PromptSet::new(set.name, &set.templates).unwrap())).collect()
}

/// Two interactions; the second has null values, the words for no past summary, and template syntax.
fn history() -> Vec<Interaction> {
    let first = Interaction {
        query: Some("tea?".into()),
        chosen: "green {{ x }}".into(),
        rejected: Some("black".into()),
        ..Interaction::default()
    };
    let second = Interaction { chosen: "Not Provided. {% y %}".into(), ..Interaction::default() };
    vec![first, second]
}

fn turns(system: &str, user: &str) -> Vec<Message> {
    vec![Message::system(system), Message::user(user)]
}

#[test]
fn the_sft_set_renders_the_rows_of_the_release() {
    let set = &sets()["sft"];
    let system = "You describe a reader's taste.\n\nA record is `(ASKED, TAKEN, LEFT)`.";
    let user = |past: &str| {
        format!(
            "Read the notes and the records.\n==Notes==\n\n{past}\n\n==Records==\n\
             ==Record 1==\n\nAsked:\n tea?\n***\nTaken:\ngreen {{{{ x }}}}\n***\nLeft:\nblack\n\n\
             ==Record 2==\n\nAsked:\n None\n***\nTaken:\nNot Provided. {{% y %}}\n***\nLeft:\nNone\n\n\
             ==End==\n\nAnswer {{\"taste\": \"…\"}}, 100 % \\plain\\ — {{{{ no }}}} {{% tags %}}."
        )
    };
    assert_eq!(set.summarize(None, &history()).unwrap(), turns(system, &user("Not Provided.")));
    assert_eq!(set.summarize(Some("likes\ntea"), &history()).unwrap(), turns(system, &user("likes\ntea")));
}

#[test]
fn the_sft_set_renders_the_synthesis_of_the_release() {
    let set = &sets()["sft"];
    let user = |past: &str| {
        format!(
            "Notes:\n\"{past}\"\n---\n1. (tea?) + green {{{{ x }}}} - black\n\
             2. (None) + Not Provided. {{% y %}} - None\n---\nAsked: later?\nA: mint\nB: rooibos\n\nWhat do they like?"
        )
    };
    let system = "You study a \"reader\".\n\tSay why.";
    let taught = |past| set.teach(past, &history(), Some("later?"), "mint", "rooibos").unwrap();
    assert_eq!(taught(None), turns(system, &user("Not Provided.")));
    assert_eq!(taught(Some("likes tea")), turns(system, &user("likes tea")));

    let candidate =
        |reasoning: &str, preference: &str| Candidate { reasoning: reasoning.into(), preference: preference.into() };
    let merged = set.merge(None, &[candidate("why", "tea"), candidate("how", "not coffee")]).unwrap();
    let system = "You join analyses (split by `|CUT|`).\n\n    **Form:**\n    1.  Reasons\n    2.  Taste";
    let user = "Join these 2 analyses.\n\n==List==\n**Analysis 1:**\nwhy\n|CUT|\n\ntea\n\n\
                **Analysis 2:**\nhow\n|CUT|\n\nnot coffee\n==End==\n\nKeep all.";
    assert_eq!(merged, turns(system, user));

    let user = "Which item fits the taste? {\"selection\": \"[Item A / Item B]\"}\n<Asked>\nlater?\n</Asked>\n\n\
                <Taste>\nlikes tea</Taste>\n\n<A>\nmint\n</A>\n\n<B>\nrooibos\n</B>\n\n";
    let judged = set.judge(Some("later?"), "likes tea", "mint", "rooibos").unwrap();
    assert_eq!(judged, turns("Answer the question.", user));
}

#[test]
fn the_rl_set_replaces_the_words_for_no_past_everywhere() {
    let set = &sets()["rl"];
    let user = |past: &str| {
        format!(
            "Read the notes and records in as short.\n==Notes==\n\n{past}\n\n==Records==\n\
             ==Recrod 1==\nAsked: tea?\nTaken: green {{{{ x }}}}\nLeft: black\n\n\
             ==Recrod 2==\nAsked: None\nTaken: {past} {{% y %}}\nLeft: None\n\n==End=="
        )
    };
    let system = "You describe taste, without \\n or {{ braces }}.";
    assert_eq!(set.summarize(None, &history()).unwrap(), turns(system, &user("Not Provided.")));
    assert_eq!(set.summarize(Some("likes tea"), &history()).unwrap(), turns(system, &user("likes tea")));
}

#[test]
fn the_reward_judge_is_in_two_sets() {
    let sets = sets();
    let user = |item_a: &str| {
        format!(
            "Which item fits?\nAnswer {{\"selection\": \"[Item A / Item B]\"}}.\nAsked: later?\nTaste: likes tea\n\
             A: {item_a}\nB: rooibos\nONLY the selection."
        )
    };
    for set in [&sets["rl"], &sets["judge"]] {
        let judged = |item_a| set.judge(Some("later?"), "likes tea", item_a, "rooibos").unwrap();
        assert_eq!(judged("mint"), turns("Answer the question.", &user("mint")));
        // Python's second `replace` sees the text of the first item.
        assert_eq!(judged("{b!} mint"), turns("Answer the question.", &user("rooibos mint")));
    }
}

#[test]
fn the_evaluation_has_a_set_for_each_of_its_wordings() {
    let sets = sets();
    let system = "You describe a reader's taste.";
    let full = "Notes: \"Not Provided.\"\nRecords: 1) green {{ x }}; 2) Not Provided. {% y %}\nWrite {short}.";
    for set in [&sets["eval"], &sets["eval-rec"]] {
        assert_eq!(set.summarize(None, &history()).unwrap(), turns(system, full));
        // The release ignores the past summary there.
        assert_eq!(set.summarize(Some("likes tea"), &history()).unwrap(), turns(system, full));
    }
    let streaming = |past: &str| {
        format!("Notes: {past}\nRecords:\ntea? > green {{{{ x }}}}\nNone > Not Provided. {{% y %}}\nWrite.")
    };
    let set = &sets["eval-streaming"];
    assert_eq!(set.summarize(None, &history()).unwrap(), turns(system, &streaming("Not Provided.")));
    assert_eq!(set.summarize(Some("likes tea"), &history()).unwrap(), turns(system, &streaming("likes tea")));

    let question = |question: &str| {
        format!(
            "{question} {{\"selection\": \"[Item A / Item B]\"}}\n<Asked>\nlater?\n</Asked>\n\
             <Taste>\nlikes tea</Taste>\n<A>\nmint\n</A>\n<B>\nrooibos\n</B>\nONLY the selection."
        )
    };
    let select = "The records:\n\n==Recrod 1==\ntea?: green {{ x }}, not black\n\n\
                  ==Recrod 2==\nNone: Not Provided. {% y %}, not None\n\n==End==";
    let pair = "The reader's recrods:\n0: green {{ x }}\n  black  \n1: Not Provided. {% y %}\n  None  \n==End==";
    for (name, asked, read) in [
        ("eval", "Which item fits?", select),
        ("eval-streaming", "Which item fits?", select),
        ("eval-rec", "Which record is next?", pair),
    ] {
        let set = &sets[name];
        let judged = set.judge(Some("later?"), "likes tea", "mint", "rooibos").unwrap();
        assert_eq!(judged, turns("Answer the question.", &question(asked)), "{name}");
        assert_eq!(set.history(&history()).unwrap(), read, "{name}");
    }
}

#[test]
fn written_sets_are_prompt_sets_and_say_where_they_come_from() {
    let out = tempfile::tempdir().unwrap();
    let sets = import::from_release(&release()).unwrap();
    for _ in 0..2 {
        let folders = import::write(&sets, out.path()).unwrap();
        let names: Vec<_> = folders.iter().map(|folder| folder.strip_prefix(out.path()).unwrap()).collect();
        let expected = ["sft", "rl", "judge", "eval", "eval-streaming", "eval-rec"].map(Path::new);
        assert_eq!(names, expected);
        for (set, folder) in sets.iter().zip(&folders) {
            assert_eq!(configs::prompts::sources(folder.to_str().unwrap()).unwrap(), set.templates);
        }
    }
    let line = line_of("sft/postprocess.py", "def build_input_prompt");
    assert_eq!(sets[0].origins["summarize"], format!("sft/postprocess.py:{line} build_input_prompt"));

    fs::write(out.path().join("judge/summarize.j2"), "mine").unwrap();
    let error = import::write(&sets, out.path()).unwrap_err();
    assert!(matches!(&error, ImportError::Foreign { path } if path.ends_with("judge/summarize.j2")), "{error}");
}

#[test]
fn line_endings_of_windows_change_nothing() {
    let clone = copy(|_, text| text.replace('\n', "\r\n"));
    assert_eq!(import::from_release(clone.path()).unwrap(), import::from_release(&release()).unwrap());
}

#[test]
fn what_has_no_template_is_reported_with_its_line() {
    let cases = [
        ("sft/postprocess.py", "{idx+1}", "{idx+1:02d}", "formats its value"),
        ("sft/postprocess.py", "full_text.strip()", "full_text.title()", "cannot evaluate `full_text.title()`"),
        ("sft/stage1.py", "+ prompt_str +", "+ joined +", "`joined` has no value here"),
        ("sft/stage1.py", "target[\"query\"])", "target[\"title\"])", "has no template field; expected one of `query`"),
        ("sft/stage1.py", "        responseA = chosen", "        prompt_str = chosen", "assigned in a branch"),
        ("sft/stage2.py", "Which item fits the taste? ", "Which one? ", "build_evaluation_prompt"),
        ("eval/gen_preference.py", "{records}", "{rows}", "has no argument for `{rows}`"),
        ("eval/gen_preference.py", "\"user\"", "\"human\"", "makes other `messages`"),
        ("eval/evaluate_select.py", "{persona}", "{persona!r}", "formats its value"),
        (REWARD, "\"{b!}\", responseB", "\"{b!}\", responseA", "without the field `item_b`"),
        (RL_DATASET, "prompt_text.strip()", "prompt_text.strip(\"=.\")", "strips a text"),
        (RL_ROWS, "\\n==End==\\n\"\"\"", "\"\"\"", "ends with a field"),
    ];
    for (file, from, to, expected) in cases {
        let clone = edited(file, from, to);
        let Err(ImportError::Unmapped { problems, .. }) = import::from_release(clone.path()) else {
            panic!("{file}: `{to}` was imported")
        };
        let found = problems.iter().find(|problem| problem.message.contains(expected));
        let problem = found.unwrap_or_else(|| panic!("{file}: `{to}`: {problems:?}"));
        assert!(problem.line.is_some(), "{problem}");
        assert!(problem.message.contains("expected"), "{problem}");
    }
}

#[test]
fn the_line_is_that_of_the_expression() {
    let clone = edited("sft/postprocess.py", "{past if past is not None else", "{past if past else");
    let error = import::from_release(clone.path()).unwrap_err().to_string();
    let line = line_of("sft/postprocess.py", "{past if past is not None else");
    assert!(error.contains(&format!("\n  sft/postprocess.py:{line}: cannot evaluate `past`; expected")), "{error}");
}

#[test]
fn every_problem_is_reported_at_once() {
    let clone = copy(|file, text| match file {
        "eval/gen_preference.py" => text.replace("def build_prompt", "def prompt_of"),
        "sft/stage2.py" => text.replace("raw = f", "raw = 1 + f"),
        _ => text.replace("def format_profile", "def format_history"),
    });
    let error = import::from_release(clone.path()).unwrap_err().to_string();
    let raw = format!("sft/stage2.py:{}: cannot evaluate", line_of("sft/stage2.py", "raw = f"));
    for expected in [
        "nothing was written",
        "eval/gen_preference.py: has no function `build_prompt`",
        "eval/evaluate_direct_select.py: has no function `format_profile`",
        raw.as_str(),
    ] {
        assert_eq!(error.matches(expected).count(), 1, "{expected}: {error}");
    }
}

#[test]
fn folders_that_are_no_release_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let error = import::from_release(empty.path()).unwrap_err().to_string();
    assert!(error.contains("not a clone of the release (sft/postprocess.py is missing)"), "{error}");

    let clone = copy(|_, text| text);
    fs::remove_file(clone.path().join("eval/evaluate_select.py")).unwrap();
    let error = import::from_release(clone.path()).unwrap_err().to_string();
    assert!(error.contains("eval/evaluate_select.py: cannot read"), "{error}");
}

/// Returns the line of the first occurrence of a text in a file of the repository.
fn line_of(file: &str, text: &str) -> usize {
    let source = fs::read_to_string(release().join(file)).unwrap();
    source.lines().position(|line| line.contains(text)).unwrap() + 1
}

/// Copies the repository with one text replaced, which has to be there.
fn edited(file: &str, from: &str, to: &str) -> TempDir {
    assert!(fs::read_to_string(release().join(file)).unwrap().contains(from), "{file} lacks `{from}`");
    copy(|path, text| if path == file { text.replace(from, to) } else { text })
}

fn copy(edit: impl Fn(&str, String) -> String) -> TempDir {
    let clone = tempfile::tempdir().unwrap();
    copy_folder(Path::new(""), clone.path(), &edit);
    clone
}

fn copy_folder(folder: &Path, clone: &Path, edit: &dyn Fn(&str, String) -> String) {
    fs::create_dir_all(clone.join(folder)).unwrap();
    for entry in fs::read_dir(release().join(folder)).unwrap() {
        let path = folder.join(entry.unwrap().file_name());
        if release().join(&path).is_dir() {
            copy_folder(&path, clone, edit);
        } else {
            let text = fs::read_to_string(release().join(&path)).unwrap();
            fs::write(clone.join(&path), edit(path.to_str().unwrap(), text)).unwrap();
        }
    }
}
