//! Fixtures: a small tokenizer, rows and folders.

use std::path::{Path, PathBuf};

use chat::tokenizer::Tokenizer;
use configs::sft::SftData;
use corpus::{Corpus, CorpusError, MaskedSequence};
use serde_json::{Value as Json, json};

/// A ChatML template whose assistant turns are generation blocks.
pub const MARKED: &str = "{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// A ChatML template that omits the reasoning of earlier turns, as Qwen3's template does.
pub const FORGETFUL: &str = "{%- for m in messages %}
    {%- set content = m.content if loop.last else m.content.split('</think>')[-1] %}
    {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

/// Trains a tokenizer with the ChatML template.
pub fn tokenizer() -> Tokenizer {
    let text = "the user likes warm stories about space and avoids long dry reports on finance\n".repeat(30);
    Tokenizer::train([text.as_str()].into_iter(), 420).unwrap()
}

/// Trains a tokenizer with another template.
pub fn tokenizer_with(template: &str) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    tokenizer().save(folder.path()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

/// Writes rows as JSON lines to the file `name` of `folder`.
pub fn write(folder: &Path, name: &str, rows: &[Json]) -> PathBuf {
    let path = folder.join(name);
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, lines.concat()).unwrap();
    path
}

/// Returns a list of messages with alternating roles, starting with the user.
pub fn turns(texts: &[&str]) -> Json {
    let roles = ["user", "assistant"].into_iter().cycle();
    texts.iter().zip(roles).map(|(text, role)| json!({"role": role, "content": text})).collect()
}

/// Returns `count` distinct rows of text.
pub fn numbered(count: usize) -> Vec<Json> {
    (0..count).map(|i| json!({"text": format!("row {i} likes space")})).collect()
}

/// Opens a corpus without reporting progress.
pub fn open(data: &SftData, tokenizer: &Tokenizer, folder: &Path) -> Result<Corpus, CorpusError> {
    corpus::open(data, tokenizer, &folder.join("cache"), 7, &mut |_, _, _| {})
}

/// Returns all sequences of `rows` in order, and the corpus.
pub fn sequences(
    rows: &[Json],
    data: &SftData,
    tokenizer: &Tokenizer,
) -> Result<(Vec<MaskedSequence>, Corpus), CorpusError> {
    let folder = tempfile::tempdir().unwrap();
    let data = SftData { train: write(folder.path(), "rows.jsonl", rows), shuffle: false, ..data.clone() };
    let corpus = open(&data, tokenizer, folder.path())?;
    let all = corpus.train.epoch(0).into_iter().map(|id| corpus.train.read(id)).collect::<Result<_, _>>()?;
    Ok((all, corpus))
}

/// Returns the texts of the runs of trained tokens.
pub fn trained(sequence: &MaskedSequence, tokenizer: &Tokenizer) -> Vec<String> {
    let (mut texts, mut begin) = (Vec::new(), 0);
    for run in sequence.trained.chunk_by(|a, b| a == b) {
        if run[0] {
            texts.push(tokenizer.decode_all(&sequence.ids[begin..begin + run.len()]).unwrap());
        }
        begin += run.len();
    }
    texts
}
