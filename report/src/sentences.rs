//! Summaries shaded by what their sentences earn.

use evals::attribution::{AttributionRow, attribution_rows};
use evals::{ExplainedSentence, ExplainedSummary};
use serde::Serialize;

use crate::error::ReportError;
use crate::page;
use crate::palette;
use crate::records::{Example, Written};

/// The name of the file with the attribution in a run folder: a JSON list, as `xplore explain --out` writes it.
pub const EXPLAIN: &str = "explain.json";

/// The smallest gain that the strongest shade stands for, so that noise stays pale.
const LEAST_FULL: f64 = 0.05;

/// The opacity of the strongest shade, which leaves text readable on light and dark backgrounds.
const OPACITY: f64 = 0.5;

/// A sentence with its shade.
#[derive(Serialize)]
pub(crate) struct ShadedSentence {
    text: String,
    /// The background, as CSS.
    color: String,
    /// What the sentence earns, by judge and domain.
    title: String,
}

/// A response of a model, with its shaded summary if it was explained.
#[derive(Serialize)]
pub(crate) struct WrittenPart<'a> {
    reasoning: &'a str,
    summary: &'a str,
    sentences: Vec<ShadedSentence>,
}

/// One user of the examples.
#[derive(Serialize)]
pub(crate) struct ExamplePart<'a> {
    uid: &'a str,
    truth: &'a str,
    history: &'a [String],
    sft: Option<WrittenPart<'a>>,
    rl: Option<WrittenPart<'a>>,
}

/// Returns the examples, each summary shaded if `explained` has it.
pub(crate) fn examples<'a>(examples: &'a [Example], explained: &[ExplainedSummary]) -> Vec<ExamplePart<'a>> {
    let full = full_gain(explained);
    let part = |uid: &str, written: &'a Written| {
        let same = |known: &&ExplainedSummary| known.uid == uid && known.summary.trim() == written.summary.trim();
        let found = explained.iter().find(same);
        WrittenPart {
            reasoning: &written.reasoning,
            summary: &written.summary,
            sentences: found.map(|found| shaded(found, full)).unwrap_or_default(),
        }
    };
    let example = |example: &'a Example| ExamplePart {
        uid: &example.uid,
        truth: &example.truth,
        history: &example.history,
        sft: example.sft.as_ref().map(|written| part(&example.uid, written)),
        rl: example.rl.as_ref().map(|written| part(&example.uid, written)),
    };
    examples.iter().map(example).collect()
}

/// Returns the gain that the strongest shade stands for: the largest of all sentences.
fn full_gain(explained: &[ExplainedSummary]) -> f64 {
    let sentences = explained.iter().flat_map(|summary| &summary.sentences);
    sentences.map(|sentence| sentence.gain().abs()).fold(LEAST_FULL, f64::max)
}

fn shaded(summary: &ExplainedSummary, full: f64) -> Vec<ShadedSentence> {
    let sentence = |sentence: &ExplainedSentence| {
        let gain = sentence.gain();
        let color = if gain >= 0.0 { palette::HELPS } else { palette::HURTS };
        let opacity = OPACITY * (gain.abs() / full).min(1.0);
        let lines = sentence.gains.iter().map(|gain| {
            let plural = if gain.targets == 1 { "" } else { "s" };
            let points = points(gain.gain);
            format!("{}, {}: {points} points ({} target{plural})", gain.judge, gain.domain, gain.targets)
        });
        ShadedSentence {
            text: sentence.text.clone(),
            color: format!("rgba({}, {}, {}, {opacity:.2})", color.0, color.1, color.2),
            title: lines.collect::<Vec<_>>().join("\n"),
        }
    };
    summary.sentences.iter().map(sentence).collect()
}

/// The data of the page about an attribution alone.
#[derive(Serialize)]
struct ExplainPage<'a> {
    rows: Vec<Line>,
    summaries: Vec<SummaryPart<'a>>,
    /// The gain of the strongest shade, in points.
    full: String,
    ink: String,
    muted: String,
    grid: String,
}

/// One line of the table by judge and domain, as text.
#[derive(Serialize)]
struct Line {
    judge: String,
    domain: String,
    users: usize,
    sentences: usize,
    probability: String,
    gain: String,
    interval: String,
    help: String,
    hurt: String,
}

#[derive(Serialize)]
struct SummaryPart<'a> {
    uid: &'a str,
    sentences: Vec<ShadedSentence>,
}

/// Renders the page about an attribution alone.
pub(crate) fn html(explained: &[ExplainedSummary]) -> Result<String, ReportError> {
    let full = full_gain(explained);
    let page = ExplainPage {
        rows: attribution_rows(explained).into_iter().map(line).collect(),
        summaries: explained.iter().map(|one| SummaryPart { uid: &one.uid, sentences: shaded(one, full) }).collect(),
        full: format!("{:.1}", 100.0 * full),
        ink: palette::hex(palette::INK),
        muted: palette::hex(palette::MUTED),
        grid: palette::hex(palette::GRID),
    };
    Ok(page::templates()?.get_template("explain.html")?.render(page)?)
}

fn line(row: AttributionRow) -> Line {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    Line {
        users: row.users,
        sentences: row.sentences,
        probability: percent(row.p_chosen),
        gain: points(row.gain),
        interval: format!("{} to {}", points(row.ci_low), points(row.ci_high)),
        help: percent(row.help),
        hurt: percent(row.hurt),
        judge: row.judge,
        domain: row.domain,
    }
}

/// Formats a difference of probabilities in percentage points, with its sign.
fn points(difference: f64) -> String {
    format!("{:+.1}", 100.0 * difference).replace('-', "−")
}

#[cfg(test)]
mod tests {
    use evals::SentenceGain;

    use super::*;

    fn explained(gains: &[f64]) -> ExplainedSummary {
        let sentence = |gain: &f64| ExplainedSentence {
            text: "Likes space. ".into(),
            gains: vec![SentenceGain {
                judge: "training".into(),
                domain: "news".into(),
                targets: 1,
                p_chosen: 0.8,
                p_without: 0.8 - gain,
                gain: *gain,
            }],
        };
        let sentences: Vec<_> = gains.iter().map(sentence).collect();
        ExplainedSummary { uid: "a".into(), summary: "Likes space. ".repeat(gains.len()), sentences }
    }

    #[test]
    fn the_shade_follows_the_gain() {
        let shades = |gains: &[f64]| -> Vec<String> {
            let one = explained(gains);
            let full = full_gain(std::slice::from_ref(&one));
            shaded(&one, full).into_iter().map(|sentence| sentence.color).collect()
        };
        // The largest gain has the strongest shade, half of it half, and a loss another color.
        let found = shades(&[0.2, 0.1, -0.1, 0.0]);
        let ends: Vec<&str> = found.iter().map(|color| color.rsplit(", ").next().unwrap()).collect();
        assert_eq!(ends, ["0.50)", "0.25)", "0.25)", "0.00)"]);
        assert_ne!(found[1], found[2]);
        // Gains that are all small stay pale.
        assert!(shades(&[0.01])[0].ends_with("0.10)"));
    }

    #[test]
    fn a_shaded_sentence_names_judge_domain_and_points() {
        assert_eq!(shaded(&explained(&[-0.125]), 0.5)[0].title, "training, news: −12.5 points (1 target)");
    }
}
