//! Paths of config keys: `optimizer.lr`, `reward.terms[0].name`.

/// Returns the path of `key` in the table at `prefix`.
pub(crate) fn child(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.into() } else { format!("{prefix}.{key}") }
}

/// Returns the path of a list element.
pub(crate) fn element(prefix: &str, index: usize) -> String {
    format!("{prefix}[{index}]")
}
