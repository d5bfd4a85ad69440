//! Runs `scripts/reference/language_model.py` and reads its results.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value as Json;
use tch::{Kind, Tensor};

/// Results of transformers.
pub struct Answers {
    // Plain values: tensors cannot be shared between test threads.
    tensors: HashMap<String, (Vec<i64>, Vec<u8>)>,
    report: Json,
}

impl Answers {
    /// Returns a tensor by its name.
    pub fn tensor(&self, name: &str) -> Tensor {
        let (shape, bytes) = self.tensors.get(name).unwrap_or_else(|| panic!("the reference gave no {name}"));
        Tensor::f_from_data_size(bytes, shape, Kind::Float).unwrap()
    }

    /// Returns the names of the tensors that begin with `prefix`, without the prefix.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).collect()
    }

    /// Returns the other results for a model.
    pub fn report(&self, model: &str) -> &Json {
        &self.report[model]
    }
}

/// Runs `job` with transformers (the script describes its format). Files are written to `folder`.
pub fn ask(job: &Json, folder: &Path) -> Answers {
    let answers = folder.join("answers");
    python_reference::run("language_model.py", job, folder, &answers);
    let bytes = std::fs::read(answers.with_extension("safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter().map(|(name, t)| {
        assert_eq!(t.dtype(), safetensors::Dtype::F32);
        (name, (t.shape().iter().map(|&n| n as i64).collect(), t.data().to_vec()))
    });
    let report = std::fs::read(answers.with_extension("json")).unwrap();
    Answers { tensors: tensors.collect(), report: serde_json::from_slice(&report).unwrap() }
}
