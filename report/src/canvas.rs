//! The canvas of charts: an SVG that keeps text as text, so that the reader's fonts and search work.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::ReportError;

/// Drawing units per pixel. plotters places everything at whole units; several units per pixel keep curves smooth.
const UNITS: f64 = 4.0;

/// The factor by which plotters' SVG backend divides font sizes; multiplying first gives the requested size.
const FONT: f64 = 1.24;

/// A part of a picture.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The size that the SVG declares.
pub(crate) enum Size {
    /// As large as the page makes it.
    Fluid,
    /// As drawn, for viewers that need an explicit size.
    Fixed,
}

/// Converts pixels to drawing units.
pub(crate) fn px(pixels: f64) -> i32 {
    (pixels * UNITS).round() as i32
}

/// Returns the style of a line `pixels` thick.
pub(crate) fn stroke(color: RGBColor, opacity: f64, pixels: f64) -> ShapeStyle {
    ShapeStyle { color: color.mix(opacity), filled: false, stroke_width: px(pixels).unsigned_abs() }
}

/// Returns the style of text `pixels` high, anchored at the given point of its box.
pub(crate) fn text_style(pixels: f64, color: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", f64::from(px(pixels)) * FONT).into_font().color(&color).pos(Pos::new(h, v))
}

/// Converts an error of plotters; drawing into a string has no I/O, so none is expected.
pub(crate) fn failed(error: impl std::error::Error) -> ReportError {
    ReportError::Drawing(error.to_string())
}

/// Draws a picture of the given size in pixels and returns it as an `<svg>` element.
pub(crate) fn svg(
    (width, height): (f64, f64),
    size: Size,
    draw: impl FnOnce(&Area<'_>) -> Result<(), ReportError>,
) -> Result<String, ReportError> {
    let (units_wide, units_high) = (px(width), px(height));
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (units_wide.unsigned_abs(), units_high.unsigned_abs()))
            .into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    // plotters' own opening tag fixes the size in drawing units.
    let (_, body) = text.split_once('>').ok_or_else(|| ReportError::Drawing("no <svg> tag was written".into()))?;
    let size = match size {
        Size::Fluid => String::new(),
        Size::Fixed => format!(" width=\"{width}\" height=\"{height}\""),
    };
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\"{size} viewBox=\"0 0 {units_wide} {units_high}\" \
         stroke-linejoin=\"round\" stroke-linecap=\"round\">{body}"
    ))
}

/// Draws the legend inside a picture: a swatch and a name per entry.
pub(crate) fn legend(area: &Area<'_>, (x, y): (f64, f64), entries: &[(&str, RGBColor)]) -> Result<(), ReportError> {
    const SWATCH: f64 = 10.0;
    const TEXT: f64 = 12.0;
    let mut left = x;
    for (name, color) in entries {
        let corners = [(px(left), px(y - SWATCH / 2.0)), (px(left + SWATCH), px(y + SWATCH / 2.0))];
        area.draw(&Rectangle::new(corners, color.filled())).map_err(failed)?;
        let style = text_style(TEXT, crate::palette::INK, HPos::Left, VPos::Center);
        area.draw(&Text::new(*name, (px(left + SWATCH + 5.0), px(y)), style)).map_err(failed)?;
        // The font is the viewer's own, so the text width is an estimate: about half the height per letter.
        left += SWATCH + 5.0 + name.chars().count() as f64 * TEXT * 0.53 + 14.0;
    }
    Ok(())
}
