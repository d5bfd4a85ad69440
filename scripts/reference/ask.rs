//! Asks one of the scripts beside this file, in Python, what it would do. Test programs of several crates take this file in
//! by its path.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

const MEND: &str = "run scripts/setup --reference, which installs the references of these tests \
                    (or set XPLORE_REFERENCE_PYTHON to a Python that has them)";

/// What the script answers to `job`; files go to `folder`.
pub fn ask(script: &str, job: &Json, folder: &Path) -> Json {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate stands in the workspace");
    let python = std::env::var_os("XPLORE_REFERENCE_PYTHON").map_or(root.join(".venv/bin/python"), PathBuf::from);
    let (job_file, answers) = (folder.join("job.json"), folder.join("answers.json"));
    std::fs::write(&job_file, job.to_string()).unwrap();
    let run = Command::new(&python)
        .arg(root.join("scripts/reference").join(script))
        .args([&job_file, &answers])
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKENIZERS_PARALLELISM", "false")
        .output();
    let run = run.unwrap_or_else(|e| panic!("{}: {e}; {MEND}", python.display()));
    let said = String::from_utf8_lossy(&run.stderr);
    let hint = if said.contains("ModuleNotFoundError") { MEND } else { "the reference failed" };
    assert!(run.status.success(), "{hint}\n{said}");
    serde_json::from_slice(&std::fs::read(answers).unwrap()).unwrap()
}
