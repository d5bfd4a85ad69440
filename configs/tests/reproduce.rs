//! docs/reproduce.md: its generated parts are those of configs/published/alignxplore-plus.toml.
//!
//! `XPLORE_UPDATE_DOCS=1 cargo test -p configs --test reproduce` rewrites them.

use std::fs;
use std::path::Path;

use configs::published::{self, PublishedSetting, RecipeStage};

const BEGIN: &str = "<!-- generated from configs/published/alignxplore-plus.toml: ";
const END: &str = "<!-- end of the generated part -->";

/// The page's width in characters.
const WIDTH: usize = 128;

/// Returns the page with its generated parts rewritten.
fn fill(page: &str) -> String {
    let (mut out, mut lines) = (String::new(), page.lines());
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(name) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        assert!(lines.any(|line| line == END), "the part `{name}` of docs/reproduce.md has no end");
        out.push_str(&format!("\n{}\n{END}\n", part(name)));
    }
    out
}

fn part(name: &str) -> String {
    match name {
        "SFT settings" => settings(RecipeStage::Sft),
        "RL settings" => settings(RecipeStage::Rl),
        "evaluation settings" => settings(RecipeStage::Eval),
        "SFT differences" => differences(RecipeStage::Sft),
        "RL differences" => differences(RecipeStage::Rl),
        "evaluation differences" => differences(RecipeStage::Eval),
        "scores" => scores(),
        _ => panic!("docs/reproduce.md has an unknown part `{name}`"),
    }
}

fn of(stage: RecipeStage) -> impl Iterator<Item = &'static PublishedSetting> {
    published::recipe().settings.iter().filter(move |setting| setting.stage == stage)
}

fn settings(stage: RecipeStage) -> String {
    let mut out = String::from("| | published | source |\n|---|---|---|\n");
    for setting in of(stage) {
        let key = &setting.key;
        let value = match &setting.value {
            Some(value) => format!("`{key} = {}`", published::shown(Some(value))),
            None => format!("`{key}`"),
        };
        let note = if setting.note.is_empty() { String::new() } else { format!(" ({})", setting.note) };
        let mark = if setting.preset.is_some() { "; the preset differs, see below" } else { "" };
        out.push_str(&format!("| {} | {value}{note}{mark} | {} |\n", setting.name, setting.source));
    }
    out
}

fn differences(stage: RecipeStage) -> String {
    let mut out = String::new();
    for setting in of(stage) {
        if let Some(preset) = &setting.preset {
            let preset = format!("`{} = {}`", setting.key, published::shown(Some(preset)));
            let (name, value) = (&setting.name, published::shown(setting.value.as_ref()));
            let words = format!("The preset has {preset} in place of `{value}`: {}.", setting.deviation);
            out.push_str(&item(&capital(name), &words));
        }
    }
    for difference in published::recipe().differences.iter().filter(|difference| difference.stage == stage) {
        out.push_str(&item(&difference.title, &difference.text));
    }
    out
}

fn scores() -> String {
    let mut out = String::from("| benchmark | users | full | streaming |\n|---|---|---|---|\n");
    for score in &published::recipe().benchmarks {
        out.push_str(&format!("| {} | {} | {:.2} | {:.2} |\n", score.name, score.users, score.full, score.streaming));
    }
    out
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Returns a list item, wrapped.
fn item(title: &str, text: &str) -> String {
    let (mut out, mut width) = (String::from("-"), 1);
    for word in format!("**{title}.** {text}").split_whitespace() {
        let letters = word.chars().count();
        if width + 1 + letters > WIDTH {
            out.push_str("\n ");
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + letters;
    }
    out + "\n"
}

#[test]
fn the_page_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reproduce.md");
    let page = fs::read_to_string(&path).unwrap();
    let filled = fill(&page);
    if std::env::var_os("XPLORE_UPDATE_DOCS").is_some() {
        fs::write(&path, &filled).unwrap();
        return;
    }
    assert_eq!(page.matches(BEGIN).count(), 7);
    let differs = page.lines().zip(filled.lines()).find(|(there, generated)| there != generated);
    assert!(
        page == filled,
        "docs/reproduce.md is not the generated page: {differs:?}; run XPLORE_UPDATE_DOCS=1 cargo test -p configs \
         --test reproduce"
    );
}

#[test]
fn a_stale_part_is_replaced_and_the_rest_stays() {
    let page = format!("# Title\n\n{BEGIN}scores -->\n\nold\n{END}\n\nThe end.\n");
    let filled = fill(&page);
    assert!(filled.starts_with("# Title\n\n") && filled.ends_with(&format!("\n{END}\n\nThe end.\n")), "{filled}");
    assert!(!filled.contains("old") && filled.contains("| MIND | 3000 | 71.36 | 71.80 |"), "{filled}");
    assert_eq!(fill(&filled), filled);
}

#[test]
fn items_are_wrapped_between_words() {
    let text = item("Title", &"word ".repeat(60));
    assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    assert_eq!(text.lines().next().unwrap().chars().count(), 127, "{text}");
    assert!(text.lines().skip(1).all(|line| line.starts_with("  word")), "{text}");
}
