//! The certificate as Markdown.

use configs::published::Agreement;

use super::record::{Certificate, FileHash, RunCertificate, ScoreComparison, SettingComparison};

/// Renders the certificate.
pub(super) fn render(certificate: &Certificate) -> String {
    let counts = certificate.counts;
    let mut out = format!("# Reproduction certificate: {}\n\n", certificate.recipe);
    out.push_str(&format!(
        "{} published settings are the same, {} name another location, {} differ for a stated reason, and {} differ without one. \
         Written by xplore {}.\n",
        counts.same, counts.other_location, counts.explained, counts.unexplained, certificate.version
    ));
    if let Some(program) = &certificate.program {
        out.push_str(&format!("SHA-256 of this program: `{}`.\n", program.sha256));
    }
    for run in &certificate.runs {
        render_run(&mut out, run);
    }
    scores(&mut out, &certificate.scores);
    if !certificate.differences.is_empty() {
        out.push_str("\n## Known differences of the implementation\n\n");
        for difference in &certificate.differences {
            out.push_str(&format!("- {}: **{}.** {}\n", difference.stage, difference.title, difference.text));
        }
    }
    if !certificate.skipped.is_empty() {
        out.push_str("\n## Skipped\n\n");
        for skipped in &certificate.skipped {
            out.push_str(&format!("- {skipped}\n"));
        }
    }
    out
}

fn render_run(out: &mut String, run: &RunCertificate) {
    let step = run.last_step.map_or_else(|| "no step is logged".into(), |step| format!("last logged step {step}"));
    out.push_str(&format!("\n## {}: {} ({step})\n", run.stage, run.folder));
    let (same, differing): (Vec<_>, Vec<_>) = run.settings.iter().partition(|found| found.agreement == Agreement::Same);
    out.push_str(&format!("\n### Settings that differ ({} of {})\n\n", differing.len(), run.settings.len()));
    if differing.is_empty() {
        out.push_str("None.\n");
    } else {
        table(out, &["setting", "published", "this run", "reason", "why it may matter"]);
        differing.iter().for_each(|found| differing_row(out, found));
    }
    out.push_str(&format!("\n### Settings as published ({})\n\n", same.len()));
    table(out, &["setting", "value", "source"]);
    for found in same {
        row(out, &[found.name.clone(), format!("`{} = {}`", found.key, found.ours), found.source.to_string()]);
    }
    out.push_str("\n### Files\n\n");
    table(out, &["", "file", "bytes", "SHA-256"]);
    for FileHash { role, path, bytes, sha256 } in &run.files {
        row(out, &[role.label().into(), format!("`{path}`"), bytes.to_string(), format!("`{sha256}`")]);
    }
    if !run.prompts.is_empty() {
        out.push_str("\n### Wording\n\n");
        table(out, &["", "prompt set", "SHA-256 of its templates", "the model was trained on"]);
        for found in &run.prompts {
            let trained = match &found.trained {
                Some(_) if found.differ.is_empty() => "the same".into(),
                Some(trained) => format!("`{}`; differs in {}", trained.hash, found.differ.join(", ")),
                None => "unknown".into(),
            };
            row(out, &[format!("`{}`", found.key), found.used.name.clone(), format!("`{}`", found.used.hash), trained]);
        }
    }
}

fn differing_row(out: &mut String, found: &SettingComparison) {
    let reason = match (&found.reason, found.agreement) {
        (Some(reason), _) => reason.clone(),
        (None, Agreement::OtherLocation) => "another location; compare the hashes of its files".into(),
        (None, _) => "**none stated**".into(),
    };
    let setting = format!("{} (`{}`)", found.name, found.key);
    row(out, &[setting, format!("`{}`", found.published), format!("`{}`", found.ours), reason, found.why.clone()]);
}

fn scores(out: &mut String, scores: &[ScoreComparison]) {
    if scores.is_empty() {
        return;
    }
    out.push_str(
        "\n## Scores\n\nAccuracy in percent, with the 95 % interval over users. The last columns are the numbers of users that tell \
         the two apart at 95 % confidence and 80 % power: if the published accuracy is exact, and if both are measured on that many \
         users.\n\n",
    );
    let users = ["users if exact", "users of each"];
    table(out, &["benchmark", "setting", "model", "judge", "published", "this run", "users", users[0], users[1]]);
    for found in scores {
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let number = |users: Option<u64>| users.map_or_else(|| "–".into(), |users| users.to_string());
        let ours = format!("{} ({} to {})", percent(found.ours), percent(found.ci_low), percent(found.ci_high));
        row(
            out,
            &[
                found.benchmark.clone().unwrap_or_else(|| format!("unknown ({})", found.folder)),
                found.setting.to_string(),
                found.model.clone(),
                found.judge.clone(),
                found.published.map_or_else(|| "–".into(), percent),
                ours,
                found.users.to_string(),
                number(found.users_if_exact),
                number(found.users_of_each),
            ],
        );
    }
}

fn table(out: &mut String, head: &[&str]) {
    row(out, &head.iter().map(ToString::to_string).collect::<Vec<_>>());
    out.push_str(&format!("|{}\n", "---|".repeat(head.len())));
}

fn row(out: &mut String, cells: &[String]) {
    let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    out.push_str(&format!("| {} |\n", escaped.join(" | ")));
}
