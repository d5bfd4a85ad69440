//! Built-in configuration presets, for `extends = "preset:…"`.

/// The prefix of a preset's name.
pub(crate) const PREFIX: &str = "preset:";

/// Name and text of each preset.
pub const PRESETS: &[(&str, &str)] = &[
    ("streaming-published", include_str!("../presets/streaming-published.toml")),
    ("streaming-unbiased", include_str!("../presets/streaming-unbiased.toml")),
];

/// Returns the text of a preset.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
