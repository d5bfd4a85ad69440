//! Training rows.

use serde_json::json;

/// Returns a row with a question and its answer, of varying lengths.
pub fn row(i: usize) -> String {
    let words = ["likes", "warm", "stories", "about", "space", "and", "avoids", "long", "dry", "reports"];
    let say = |from: usize, n: usize| (0..n).map(|k| words[(from + 3 * k) % 10]).collect::<Vec<_>>().join(" ");
    let turn = |role: &str, content: String| json!([{ "role": role, "content": content }]);
    json!({"prompt": turn("user", say(i, 2 + i % 5)), "completion": turn("assistant", say(i + 1, 1 + i % 7))})
        .to_string()
}
