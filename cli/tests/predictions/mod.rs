//! Reference predictions of transformers and PEFT.

use std::path::{Path, PathBuf};

use python_reference::ask;
use serde_json::{Value as Json, json};

/// Returns the predictions of transformers and PEFT after each of `prompts`, for models `(name, folder, adapter)`.
pub fn predictions(models: &[(String, PathBuf, Option<PathBuf>)], prompts: &[Vec<u32>], folder: &Path) -> Json {
    let models: Vec<Json> =
        models.iter().map(|(name, model, adapter)| json!({"name": name, "model": model, "adapter": adapter})).collect();
    ask("logits.py", &json!({"models": models, "prompts": prompts}), folder)
}

/// Returns the logits of one model, prompt by prompt, token by token.
pub fn logits(answer: &Json) -> Vec<Vec<f64>> {
    let rows = answer["logits"].as_array().unwrap().iter().flat_map(|prompt| prompt.as_array().unwrap());
    rows.map(numbers).collect()
}

/// Converts a JSON list of numbers.
pub fn numbers(list: &Json) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}
