//! The programs of `examples/` run; later ones use the model of the first one.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().into()
}

/// Runs an example that `cargo test` built next to this test, and returns its standard output.
fn run(name: &str, arguments: &[&Path]) -> String {
    let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let output = Command::new(profile.join("examples").join(name)).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn examples_fine_tune_train_with_a_term_of_their_own_and_generate() {
    let place = tempfile::tempdir().unwrap();
    let model = place.path().join("model");
    run("finetune", &[&root().join("examples/sft.jsonl"), place.path()]);
    assert!(model.join("model.safetensors").is_file());

    run("custom_reward", &[&model, &root().join("examples/rl.jsonl"), place.path()]);
    let metrics = std::fs::read_to_string(place.path().join("custom-reward/metrics.jsonl")).unwrap();
    let steps: Vec<serde_json::Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 2);
    for step in &steps {
        assert!(step["reward/few_words"].is_number() && step["reward/judge"].is_number(), "{step}");
    }

    let printed = run("generate_and_score", &[&model, Path::new("The user likes")]);
    assert_eq!(printed.matches("scored at").count(), 2, "{printed}");
}

/// The term that docs/extending.md shows is the one that the example builds.
#[test]
fn the_term_of_the_documentation_is_that_of_the_example() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (example, page) = (read("xplore/examples/custom_reward.rs"), read("docs/extending.md"));
    let begin = example.find("/// 1 − words / limit").unwrap();
    let term = example[begin..example.find("fn main()").unwrap()].trim_end();
    let shown: Vec<String> =
        term.lines().map(|line| if line.is_empty() { String::new() } else { format!("    {line}") }).collect();
    assert!(page.contains(&shown.join("\n")), "docs/extending.md does not show the term of custom_reward.rs");
    assert!(example.contains("registry.register::<FewWords>(\"few_words\")?;"));
}
