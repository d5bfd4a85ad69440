//! The report as Markdown.

use report::{AblationReport, ReportTable};

/// Renders the report with a title of this level. Times are the last section, between markers.
pub(super) fn render(report: &AblationReport, level: usize) -> String {
    let marks = "#".repeat(level);
    let mut out = format!("{marks} Ablation: {}\n\n{}\n", report.name, report.about);
    for sentence in &report.sentences {
        out.push_str(&format!("\n- {sentence}"));
    }
    if !report.sentences.is_empty() {
        out.push('\n');
    }
    if !report.missing.is_empty() {
        out.push_str(&format!("\nRuns without a result: {}.\n", report.missing.join("; ")));
    }
    for table in &report.tables {
        out.push_str(&section(table, &marks));
    }
    out.push_str("\n<!-- time -->");
    out.push_str(&section(&report.time, &marks));
    out.push_str("<!-- /time -->\n");
    out
}

fn section(table: &ReportTable, marks: &str) -> String {
    let mut out = format!("\n{marks}# {}\n\n{}\n\n", table.title, table.note);
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    out.push_str(&line(&table.header));
    out.push_str(&format!("|{}\n", "---|".repeat(table.header.len())));
    for row in &table.rows {
        out.push_str(&line(row));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_the_table_and_times_come_last() {
        let table = |title: &str| ReportTable {
            title: title.into(),
            note: "Note.".into(),
            header: vec!["a".into(), "b".into()],
            rows: vec![vec!["x|y".into(), "1".into()]],
        };
        let report = AblationReport {
            name: "n".into(),
            about: "About.".into(),
            sentences: vec!["One.".into(), "Two.".into()],
            tables: vec![table("T")],
            missing: vec![],
            time: table("Time"),
        };
        let rows = "Note.\n\n| a | b |\n|---|---|\n| x\\|y | 1 |\n";
        let expected = format!(
            "# Ablation: n\n\nAbout.\n\n- One.\n- Two.\n\n## T\n\n{rows}\n<!-- time -->\n## Time\n\n{rows}<!-- /time -->\n"
        );
        assert_eq!(render(&report, 1), expected);
    }
}
