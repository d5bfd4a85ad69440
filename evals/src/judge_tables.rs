//! Calibrations, panels and attributions as text tables, for display.

use crate::attribution::{AttributionRow, ExplainedSummary};
use crate::calibration::CalibrationRow;
use crate::panel::{PanelCell, PanelSpan};
use crate::table::{distinct, finish, start};

/// Returns one line for each judge and kind of summaries: accuracy in percent with its 95 % interval, calibration error, order bias
/// and cost; no column of costs without prices.
pub fn calibration(rows: &[CalibrationRow]) -> String {
    let priced = rows.iter().any(|row| row.cost.cost.is_some());
    let header = [
        "judge",
        "summary",
        "accuracy",
        "mean\nprobability",
        "no answer",
        "calibration\nerror (ECE)",
        "order\nbias",
        "order\nflips",
        "prompt\ntokens",
        "new\ntokens",
        "seconds",
    ];
    let mut table = start(header.into_iter().chain(priced.then_some("cost")).map(str::to_owned).collect());
    for row in rows {
        let bias = row.order_bias;
        let mut line = vec![
            row.judge.clone(),
            row.summary.clone(),
            interval(row.accuracy, row.ci_low, row.ci_high),
            percent(row.p_chosen),
            percent(row.no_answer),
            percent(row.reliability.ece),
            bias.map_or(String::new(), |bias| points(bias.bias)),
            bias.map_or(String::new(), |bias| percent(bias.flips)),
            row.cost.prompt_tokens.to_string(),
            row.cost.completion_tokens.to_string(),
            format!("{:.1}", row.cost.seconds),
        ];
        if priced {
            line.push(row.cost.cost.map_or(String::new(), |cost| format!("{cost:.4}")));
        }
        table.add_row(line);
    }
    finish(table, 2)
}

/// Returns the reliability curves: one line for each bin that is not empty, with mean confidence and accuracy in percent.
pub fn reliability(rows: &[CalibrationRow]) -> String {
    let header = ["judge", "summary", "confidence", "verdicts", "mean\nconfidence", "accuracy"];
    let mut table = start(header.map(str::to_owned).into());
    for row in rows {
        for bin in &row.reliability.bins {
            let (Some(confidence), Some(accuracy)) = (bin.confidence, bin.accuracy) else { continue };
            table.add_row([
                row.judge.clone(),
                row.summary.clone(),
                format!("{} to {}", percent(bin.low), percent(bin.high)),
                bin.verdicts.to_string(),
                percent(confidence),
                percent(accuracy),
            ]);
        }
    }
    finish(table, 2)
}

/// Returns one line for each judge and wording, with one column for each order of the items: accuracy in percent with its 95 %
/// interval.
pub fn panel(cells: &[PanelCell]) -> String {
    let orders = distinct(cells.iter().map(|cell| cell.order));
    let mut header = vec!["judge".to_owned(), "wording".into()];
    header.extend(orders.iter().map(|order| format!("accuracy,\n{order}")));
    header.extend(["mean\nprobability".to_owned(), "no answer".into()]);
    let mut table = start(header);
    for (judge, wording) in distinct(cells.iter().map(|cell| (cell.judge.as_str(), cell.wording.as_str()))) {
        let here = || cells.iter().filter(|cell| (cell.judge.as_str(), cell.wording.as_str()) == (judge, wording));
        let mut line = vec![judge.to_owned(), wording.to_owned()];
        line.extend(orders.iter().map(|order| {
            let cell = here().find(|cell| cell.order == *order);
            cell.map_or(String::new(), |cell| interval(cell.accuracy, cell.ci_low, cell.ci_high))
        }));
        let first = here().next();
        line.push(first.map_or(String::new(), |cell| percent(cell.p_chosen)));
        line.push(first.map_or(String::new(), |cell| percent(cell.no_answer)));
        table.add_row(line);
    }
    finish(table, 2)
}

/// Returns one line per factor: the mean accuracy in percent, and its span.
pub fn spans(spans: &[PanelSpan]) -> String {
    let mut table = start(["over", "mean", "span", "lowest", "highest"].map(str::to_owned).into());
    for span in spans {
        table.add_row([
            span.over.clone(),
            percent(span.mean),
            format!("{} to {}", percent(span.low), percent(span.high)),
            span.lowest.clone(),
            span.highest.clone(),
        ]);
    }
    finish(table, 1)
}

/// Returns one line for each judge and domain: what a sentence earns on average, in percentage points of the probability of the
/// user's choice.
pub fn attribution(rows: &[AttributionRow]) -> String {
    let header = ["judge", "domain", "users", "sentences", "probability", "gain\na sentence", "help", "hurt"];
    let mut table = start(header.map(str::to_owned).into());
    for row in rows {
        table.add_row([
            row.judge.clone(),
            row.domain.clone(),
            row.users.to_string(),
            row.sentences.to_string(),
            percent(row.p_chosen),
            format!("{} [{}, {}]", points(row.gain), points(row.ci_low), points(row.ci_high)),
            percent(row.help),
            percent(row.hurt),
        ]);
    }
    finish(table, 2)
}

/// Returns one line for each sentence of the given summaries, with one column for each judge and domain: what it earns, in percentage
/// points.
pub fn sentences(explained: &[ExplainedSummary]) -> String {
    let all = explained.iter().flat_map(|summary| &summary.sentences).flat_map(|sentence| &sentence.gains);
    let columns = distinct(all.map(|gain| (gain.judge.as_str(), gain.domain.as_str())));
    let mut header = vec!["user".to_owned(), "sentence".into()];
    header.extend(columns.iter().map(|(judge, domain)| format!("{judge},\n{domain}")));
    let mut table = start(header);
    for summary in explained {
        for sentence in &summary.sentences {
            let mut line = vec![summary.uid.clone(), shortened(&sentence.text)];
            line.extend(columns.iter().map(|column| {
                let gain = sentence.gains.iter().find(|gain| (gain.judge.as_str(), gain.domain.as_str()) == *column);
                gain.map_or(String::new(), |gain| points(gain.gain))
            }));
            table.add_row(line);
        }
    }
    finish(table, 2)
}

/// Returns a sentence on one line of at most 60 characters.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn points(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

fn interval(mean: f64, low: f64, high: f64) -> String {
    format!("{} [{}, {}]", percent(mean), percent(low), percent(high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{ExplainedSentence, SentenceGain};

    #[test]
    fn each_sentence_has_a_line_and_each_judge_and_domain_a_column() {
        let gain = |judge: &str, domain: &str, gain: f64| SentenceGain {
            judge: judge.into(),
            domain: domain.into(),
            targets: 2,
            p_chosen: 0.8,
            p_without: 0.8 - gain,
            gain,
        };
        let sentence = |text: &str, gains| ExplainedSentence { text: text.into(), gains };
        let text = sentences(&[ExplainedSummary {
            uid: "a".into(),
            summary: "Likes space.\nAvoids jazz.".into(),
            sentences: vec![
                sentence("Likes space.\n", vec![gain("first", "news", 0.25), gain("second", "news", -0.0625)]),
                sentence(&"long ".repeat(40), vec![gain("first", "news", 0.0)]),
            ],
        }]);
        let line = |begin: &str| text.lines().find(|line| line.contains(begin)).unwrap().trim_end().to_owned();
        assert!(text.contains("first,") && text.contains("second,") && text.contains("news"), "{text}");
        assert!(line("Likes space.").contains("+25.0") && line("Likes space.").ends_with("-6.2"), "{text}");
        assert!(line("long long").contains("…") && line("long long").contains("+0.0"), "{text}");
    }
}
