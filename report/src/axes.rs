//! Axes: round ticks with labels, and a grid of horizontal lines.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::canvas::{Area, failed, px, stroke, text_style};
use crate::error::ReportError;
use crate::palette::{GRID, MUTED};

/// The height of axis labels, in pixels.
const LABEL: f64 = 11.5;

/// A chart with two linear axes.
pub(crate) type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// A position on an axis and its label.
pub(crate) type Tick = (f64, String);

/// Returns about `count` ticks within the range, at multiples of 1, 2 or 5 times a power of ten; at integers only, if
/// `whole` is set.
pub(crate) fn ticks(low: f64, high: f64, count: f64, whole: bool) -> Vec<Tick> {
    let rough = (high - low) / count;
    if !rough.is_normal() || rough < 0.0 {
        return vec![(low, label(low, 1.0, low.abs()))];
    }
    let power = 10f64.powf(rough.log10().floor());
    // The multiple closest by ratio.
    let multiple = [1.0, 2.0, 5.0].into_iter().find(|multiple| multiple * power * 1.42 >= rough).unwrap_or(10.0);
    let step = if whole { (multiple * power).max(1.0) } else { multiple * power };
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    let largest = low.abs().max(high.abs());
    (first..=last).map(|index| (index as f64 * step, label(index as f64 * step, step, largest))).collect()
}

/// Formats a value with the digits required by ticks `step` apart, in short form if the axis has very large or very
/// small values.
fn label(value: f64, step: f64, largest: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let place = |number: f64| (number.abs().log10() + 1e-9).floor();
    if largest < 1e-3 {
        let digits = (place(value) - place(step)).max(0.0) as usize;
        return format!("{value:.digits$e}");
    }
    let (scale, suffix) = match largest {
        largest if largest >= 1e6 => (1e6, "M"),
        largest if largest >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-place(step / scale)).max(0.0) as usize;
    format!("{:.decimals$}{suffix}", value / scale).replace('-', "−")
}

/// Returns the position of a value within the area that the chart is drawn on. (plotters reports it within the whole
/// picture.)
pub(crate) fn place(area: &Area<'_>, chart: &Chart<'_, '_>, x: f64, y: f64) -> (i32, i32) {
    let (in_picture, corner) = (chart.backend_coord(&(x, y)), area.get_base_pixel());
    (in_picture.0 - corner.0, in_picture.1 - corner.1)
}

/// Draws the grid and the labels of both axes.
pub(crate) fn draw(area: &Area<'_>, chart: &Chart<'_, '_>, x: &[Tick], y: &[Tick]) -> Result<(), ReportError> {
    let (across, up) = (chart.x_range(), chart.y_range());
    for (value, text) in y {
        let (left, right) = (place(area, chart, across.start, *value), place(area, chart, across.end, *value));
        area.draw(&PathElement::new([left, right], stroke(GRID, 1.0, 1.0))).map_err(failed)?;
        let style = text_style(LABEL, MUTED, HPos::Right, VPos::Center);
        area.draw(&Text::new(text.clone(), (left.0 - px(6.0), left.1), style)).map_err(failed)?;
    }
    for (value, text) in x {
        let (middle, bottom) = place(area, chart, *value, up.start);
        let tick = [(middle, bottom), (middle, bottom + px(4.0))];
        area.draw(&PathElement::new(tick, stroke(GRID, 1.0, 1.0))).map_err(failed)?;
        let style = text_style(LABEL, MUTED, HPos::Center, VPos::Top);
        area.draw(&Text::new(text.clone(), (middle, bottom + px(7.0)), style)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, whole: bool) -> Vec<String> {
        ticks(low, high, 5.0, whole).into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_labels_as_long_as_needed() {
        assert_eq!(labels(0.0, 1.0, false), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-0.021, 0.02, false), ["−0.02", "−0.01", "0", "0.01", "0.02"]);
        assert_eq!(labels(1.0, 120.0, true), ["20", "40", "60", "80", "100", "120"]);
        assert_eq!(labels(0.0, 3.0, true), ["0", "1", "2", "3"]);
        assert_eq!(labels(0.0, 90_000.0, false), ["0", "20k", "40k", "60k", "80k"]);
        assert_eq!(labels(0.0, 3.7e6, false), ["0", "1M", "2M", "3M"]);
        assert_eq!(labels(0.0, 1e-4, false), ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1.0e-4"]);
        assert_eq!(labels(2.0, 2.0, false), ["2"]);
    }
}
