//! Colors. Series colors are mid-tones that contrast with both white and near-black backgrounds. Ink and grid have a
//! light and a dark variant; the page's style sheet swaps them inside the charts by their light value.

use plotters::style::RGBColor;

use crate::records::Model;

/// Text and whiskers.
pub(crate) const INK: RGBColor = RGBColor(0x24, 0x29, 0x2F);
/// Axis labels.
pub(crate) const MUTED: RGBColor = RGBColor(0x65, 0x6D, 0x76);
/// Grid lines.
pub(crate) const GRID: RGBColor = RGBColor(0xE4, 0xE7, 0xEB);

/// The shade of sentences that earn.
pub(crate) const HELPS: RGBColor = RGBColor(0x2F, 0x9E, 0x6E);
/// The shade of sentences that cost.
pub(crate) const HURTS: RGBColor = RGBColor(0xD1, 0x4D, 0x72);

/// The colors of curves, in the order of their legend.
const SERIES: [RGBColor; 16] = [
    RGBColor(0x2F, 0x7B, 0xD9),
    RGBColor(0xE0, 0x6C, 0x2B),
    RGBColor(0x2F, 0x9E, 0x6E),
    RGBColor(0x8F, 0x63, 0xC4),
    RGBColor(0xD1, 0x4D, 0x72),
    RGBColor(0x1C, 0x9F, 0xB5),
    RGBColor(0xB5, 0x89, 0x0E),
    RGBColor(0x80, 0x86, 0x8E),
    RGBColor(0xC8, 0x46, 0x3C),
    RGBColor(0x5C, 0x6B, 0xE0),
    RGBColor(0x6E, 0x8B, 0x1F),
    RGBColor(0xC0, 0x4F, 0xC4),
    RGBColor(0xA0, 0x65, 0x4B),
    RGBColor(0x14, 0x85, 0x7A),
    RGBColor(0x5F, 0x8C, 0xA8),
    RGBColor(0x4E, 0x9A, 0x2E),
];

/// Returns the color of the `index`-th curve; colors repeat from the seventeenth curve on.
pub(crate) fn series(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Returns the color of a model, the same in every chart: gray for baselines, a separate hue for each of the others.
pub(crate) fn model(model: Model) -> RGBColor {
    match model {
        Model::None => RGBColor(0xAE, 0xB5, 0xBE),
        Model::Random => RGBColor(0x80, 0x86, 0x8E),
        Model::Sft => RGBColor(0x6A, 0xA8, 0xEC),
        Model::Rl => RGBColor(0xE0, 0x6C, 0x2B),
        Model::Oracle => RGBColor(0x4F, 0xB0, 0x87),
    }
}

/// Formats a color for CSS and SVG.
pub(crate) fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}
