//! Runs the scripts of `scripts/reference`, which compute in Python what the tests compare with.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

const FIX: &str = "run scripts/setup --reference, which installs the references of these tests \
                   (or set XPLORE_REFERENCE_PYTHON to a Python that has them)";

/// Returns the Python of the references: `XPLORE_REFERENCE_PYTHON`, or that of `.venv`.
pub fn python() -> PathBuf {
    std::env::var_os("XPLORE_REFERENCE_PYTHON").map_or(root().join(".venv/bin/python"), PathBuf::from)
}

/// Returns a Python for scripts that need only its standard library: [`python`], or the `python3` on PATH if there is none.
pub fn any_python() -> PathBuf {
    let python = python();
    if python.is_file() { python } else { "python3".into() }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace")
}

/// Runs `script` on `job`. The script reads the job from a file in `folder` and writes to `answers`.
///
/// # Panics
/// If the script cannot be run or fails.
pub fn run(script: &str, job: &Json, folder: &Path, answers: &Path) {
    let (root, python) = (root(), python());
    let job_file = folder.join("job.json");
    std::fs::write(&job_file, job.to_string()).unwrap_or_else(|e| panic!("{}: {e}", job_file.display()));
    let run = Command::new(&python)
        .arg(root.join("scripts/reference").join(script))
        .args([job_file.as_path(), answers])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKENIZERS_PARALLELISM", "false")
        .output();
    let run = run.unwrap_or_else(|e| panic!("{}: {e}; {FIX}", python.display()));
    let said = String::from_utf8_lossy(&run.stderr);
    let hint = if said.contains("ModuleNotFoundError") { FIX } else { "the reference failed" };
    assert!(run.status.success(), "{hint}\n{said}");
}

/// Runs `script` on `job` and returns its JSON output. Files are written to `folder`.
///
/// # Panics
/// As [`run`], and if the output is not JSON.
pub fn ask(script: &str, job: &Json, folder: &Path) -> Json {
    let answers = folder.join("answers.json");
    run(script, job, folder, &answers);
    let text = std::fs::read(&answers).unwrap_or_else(|e| panic!("{}: {e}", answers.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", answers.display()))
}
