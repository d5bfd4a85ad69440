//! Asks one of `scripts/witness`, in Python, what it would do.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};

const MEND: &str = "run scripts/test, which installs what these tests compare us with \
                    (XPLORE_WITNESS_PYTHON names another Python that has it)";

/// What the script answers to `job`; files go to `folder`.
pub fn ask(script: &str, job: &Json, folder: &Path) -> Json {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace");
    let python = std::env::var_os("XPLORE_WITNESS_PYTHON").map_or(root.join(".venv/bin/python"), PathBuf::from);
    let (job_file, answers) = (folder.join("job.json"), folder.join("answers.json"));
    std::fs::write(&job_file, job.to_string()).unwrap();
    let run = Command::new(&python)
        .arg(root.join("scripts/witness").join(script))
        .args([&job_file, &answers])
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKENIZERS_PARALLELISM", "false")
        .output();
    let run = run.unwrap_or_else(|e| panic!("{}: {e}; {MEND}", python.display()));
    let said = String::from_utf8_lossy(&run.stderr);
    let hint = if said.contains("ModuleNotFoundError") { MEND } else { "the witness failed" };
    assert!(run.status.success(), "{hint}\n{said}");
    serde_json::from_slice(&std::fs::read(answers).unwrap()).unwrap()
}

/// What transformers and PEFT predict after each of `prompts`, for models `(name, folder, adapter)`.
pub fn predictions(models: &[(String, PathBuf, Option<PathBuf>)], prompts: &[Vec<u32>], folder: &Path) -> Json {
    let models: Vec<Json> =
        models.iter().map(|(name, model, adapter)| json!({"name": name, "model": model, "adapter": adapter})).collect();
    ask("logits.py", &json!({"models": models, "prompts": prompts}), folder)
}

/// The logits of one model, prompt after prompt, token after token.
pub fn logits(answer: &Json) -> Vec<Vec<f64>> {
    let rows = answer["logits"].as_array().unwrap().iter().flat_map(|prompt| prompt.as_array().unwrap());
    rows.map(numbers).collect()
}

/// A list of numbers.
pub fn numbers(list: &Json) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}
