//! Line charts over steps, with faint values and their strong running mean; and stacked areas.

use plotters::prelude::*;

use crate::axes::{self, Chart, ticks};
use crate::canvas::{Area, Size, failed, px, stroke, svg};
use crate::error::ReportError;
use crate::smooth::{running_mean, thin, window};

/// The maximum number of points per curve; a chart is about 400 pixels wide.
const DRAWN: usize = 600;

/// One curve of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    /// The name in the legend.
    pub label: String,
    /// The color.
    pub color: RGBColor,
    /// The `(step, value)` pairs, sorted by step; not empty.
    pub points: Vec<(u64, f64)>,
}

/// The form of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One line per series.
    Lines,
    /// Stacked areas.
    Stacked,
}

/// Renders a chart as an `<svg>` for the page.
pub(crate) fn chart(curves: &[Curve], form: Form) -> Result<String, ReportError> {
    svg((460.0, 250.0), Size::Fluid, |area| draw(area, curves, form))
}

/// Draws axes and curves into an area.
pub(crate) fn draw(area: &Area<'_>, curves: &[Curve], form: Form) -> Result<(), ReportError> {
    let stacked;
    let curves = match form {
        Form::Lines => curves,
        Form::Stacked => {
            stacked = stack(curves);
            &stacked
        }
    };
    let steps = curves.iter().flat_map(|curve| &curve.points).map(|(step, _)| *step);
    let (first, last) = (steps.clone().min().unwrap_or(0), steps.max().unwrap_or(1));
    let (first, last) = (first as f64, last.max(first + 1) as f64);
    let (low, high) = value_range(curves, form);
    let mut chart = ChartBuilder::on(area)
        .margin_top(px(8.0))
        .margin_right(px(14.0))
        .x_label_area_size(px(24.0))
        .y_label_area_size(px(46.0))
        .build_cartesian_2d(first..last, low..high)
        .map_err(failed)?;
    axes::draw(area, &chart, &ticks(first, last, 6.0, true), &ticks(low, high, 5.0, false))?;
    match form {
        Form::Lines => {
            for faint in [true, false] {
                for curve in curves {
                    draw_curve(&mut chart, curve, faint)?;
                }
            }
        }
        // The total first: each lower sum paints over the one above it.
        Form::Stacked => {
            for curve in curves.iter().rev() {
                let area = AreaSeries::new(placed(&curve.points), 0.0, curve.color.mix(0.85));
                chart.draw_series(area).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Returns the points as drawn.
fn placed(points: &[(u64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    thin(points, DRAWN).into_iter().map(|(step, value)| (step as f64, value))
}

/// Draws the `faint` part of a curve (each value, if a mean is drawn as well) or the strong part.
fn draw_curve(chart: &mut Chart<'_, '_>, curve: &Curve, faint: bool) -> Result<(), ReportError> {
    let width = window(&curve.points);
    let (points, style) = match (faint, width) {
        (true, None) => return Ok(()),
        (true, Some(_)) => (curve.points.clone(), stroke(curve.color, 0.28, 1.0)),
        (false, None) => (curve.points.clone(), stroke(curve.color, 1.0, 2.0)),
        (false, Some(width)) => (running_mean(&curve.points, width), stroke(curve.color, 1.0, 2.0)),
    };
    if let [(step, value)] = points[..] {
        return chart
            .draw_series([Circle::new((step as f64, value), px(3.0), curve.color.filled())])
            .map(drop)
            .map_err(failed);
    }
    chart.draw_series(LineSeries::new(placed(&points), style)).map(drop).map_err(failed)
}

/// Returns cumulative sums over the curves. A step that a curve lacks counts as 0.
fn stack(curves: &[Curve]) -> Vec<Curve> {
    let mut sums = std::collections::BTreeMap::new();
    for (step, _) in curves.iter().flat_map(|curve| &curve.points) {
        sums.insert(*step, 0.0);
    }
    let mut stacked = Vec::with_capacity(curves.len());
    for curve in curves {
        for (step, value) in &curve.points {
            *sums.entry(*step).or_insert(0.0) += value;
        }
        stacked.push(Curve { points: sums.iter().map(|(step, sum)| (*step, *sum)).collect(), ..curve.clone() });
    }
    stacked
}

/// Returns the vertical range: all values with a small margin, starting at 0 if 0 is close.
fn value_range(curves: &[Curve], form: Form) -> (f64, f64) {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let span = if high > low { high - low } else { high.abs().max(1e-9) };
    let from_zero = form == Form::Stacked || (low >= 0.0 && low < 0.5 * high) || (low == 0.0 && high == 0.0);
    (if from_zero { low.min(0.0) } else { low - 0.06 * span }, high + 0.06 * span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(u64, f64)]) -> Curve {
        Curve { label: "a".into(), color: BLACK, points: points.to_vec() }
    }

    #[test]
    fn stacking_adds_from_the_first_curve_on() {
        let sums = stack(&[curve(&[(1, 1.0), (2, 2.0)]), curve(&[(2, 5.0)])]);
        assert_eq!(sums[0].points, [(1, 1.0), (2, 2.0)]);
        assert_eq!(sums[1].points, [(1, 1.0), (2, 7.0)]);
    }

    #[test]
    fn constant_and_single_values_still_make_a_chart() {
        for points in [&[(3, 0.0)][..], &[(0, 2.0), (1, 2.0)], &[(0, -1e-7), (9, -1e-7)]] {
            let svg = chart(&[curve(points)], Form::Lines).unwrap();
            assert!(svg.contains("<polyline") || svg.contains("<circle"), "{svg}");
            assert!(!svg.contains("NaN"), "{svg}");
        }
    }
}
