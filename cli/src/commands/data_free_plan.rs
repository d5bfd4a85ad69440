//! The plan of a run over a given number of rows or users, without data and weights.

use configs::checkpoint::CheckpointConfig;
use configs::{BatchSize, SftConfig};
use xplore::Error;

/// The maximum number of checkpoints that are listed one by one.
const LISTED: usize = 8;

fn line(label: &str, words: &str) -> String {
    format!("  {label:12} {words}\n")
}

/// Describes the updates, batches and checkpoints of fine-tuning on `rows` rows by `ranks` ranks.
///
/// # Errors
/// Returns an error if updates are cut by tokens, because their number then depends on the rows.
pub fn sft(config: &SftConfig, rows: usize, ranks: usize) -> Result<String, Error> {
    let train = &config.train;
    if train.batch_tokens > 0 {
        return Err(Error::usage(
            "--rows: with train.batch_tokens the number of updates depends on the lengths of the rows; omit --rows, or set \
             train.batch_size",
        ));
    }
    let size = train.batch_size.sequences(rows);
    let per_epoch = rows.div_ceil(size);
    let all = per_epoch * train.epochs;
    let updates = if train.max_steps == 0 { all } else { all.min(train.max_steps) };
    let mut out = line("rows", &format!("{rows} (--rows; nothing is read)"));
    if let Some(words) = train.batch_size.explanation(rows) {
        out += &line("batch size", &words);
    }
    out += &line("updates", &format!("{updates} of {size} sequences, {per_epoch} per epoch, {} epochs", train.epochs));
    let last = rows - (per_epoch - 1) * size;
    if last < size {
        out += &line("", &format!("(the last update of an epoch has {last} sequences)"));
    }
    out +=
        &line("per rank", &format!("{:.1} sequences per update (mean) on each of {ranks}", size as f64 / ranks as f64));
    let packed = format!("at most {} tokens, packed for execution", train.micro_batch_tokens);
    out += &line(
        "micro-batch",
        &match train.batch_size {
            BatchSize::Sequences(_) => packed,
            BatchSize::Published => {
                let devices = BatchSize::published_devices(rows);
                format!("{packed}; published: {} of 1 sequence on each of {devices} devices", size / devices)
            }
        },
    );
    Ok(out + &checkpoints(&config.checkpoint, updates as u64, |step| step.is_multiple_of(per_epoch as u64)))
}

/// Describes the steps at which a run of `steps` steps writes checkpoints. `ends_epoch` tells whether a step is the last of its epoch.
pub fn checkpoints(config: &CheckpointConfig, steps: u64, ends_epoch: impl Fn(u64) -> bool) -> String {
    let every = config.every as u64;
    let at_interval = |step: u64| every > 0 && step.is_multiple_of(every) || config.every_epoch && ends_epoch(step);
    let due = |step: &u64| at_interval(*step) || config.at_end && *step == steps;
    let due: Vec<String> = (1..=steps).filter(due).map(|step| step.to_string()).collect();
    let listed = match due.as_slice() {
        [] => return line("checkpoints", "none"),
        all if all.len() <= LISTED => all.join(", "),
        [first, second, third, .., last] => format!("{first}, {second}, {third}, …, {last}"),
        // Not reached, because LISTED is at least 4.
        some => some.join(", "),
    };
    let mut words = format!("{} (after steps {listed}); the last {} are kept", due.len(), config.keep_last);
    if config.keep_every > 0 {
        words += &format!(", and multiples of {}", config.keep_every);
    }
    if let Some(best) = config.best {
        words += &format!("; also one whenever {} improves", best.key());
    }
    line("checkpoints", &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_those_of_the_training_loop() {
        let config = |every, every_epoch, at_end| CheckpointConfig { every, every_epoch, at_end, ..Default::default() };
        let said = |config: &CheckpointConfig, steps| checkpoints(config, steps, |step| step.is_multiple_of(5));
        assert!(said(&config(0, true, true), 10).contains("2 (after steps 5, 10); the last 2 are kept"));
        assert!(said(&config(4, true, true), 10).contains("4 (after steps 4, 5, 8, 10);"));
        assert!(said(&config(0, false, true), 7).contains("1 (after steps 7);"));
        assert!(said(&config(0, false, false), 7).contains("none"));
        assert!(said(&config(3, false, true), 100).contains("34 (after steps 3, 6, 9, …, 100);"));
        let kept = CheckpointConfig { keep_every: 6, keep_last: 1, ..config(3, false, true) };
        assert!(said(&kept, 6).contains("the last 1 are kept, and multiples of 6"));
    }
}
