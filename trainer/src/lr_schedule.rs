//! Learning-rate schedules: warm-up, then constant, linear, cosine or WSD (warm-up, stable, decay).

use configs::optimizer::{OptimizerConfig, Schedule};

/// The position of an update in the run.
#[derive(Clone, Copy, Debug)]
pub struct ScheduleStep {
    /// The number of updates before this one.
    pub done: u64,
    /// The number of updates of the whole run.
    pub total: u64,
}

/// Returns the factor on the learning rate: linear warm-up (update u of w has u/w, from u = 0, as in transformers), then the
/// schedule down to `min_lr_ratio`.
pub fn lr_factor(config: &OptimizerConfig, progress: ScheduleStep) -> f64 {
    let (done, total) = (progress.done as f64, progress.total as f64);
    let warmup = match config.warmup_steps {
        0 => (config.warmup_ratio * total).ceil(),
        steps => steps as f64,
    };
    if done < warmup {
        return done / warmup;
    }
    let share_since = |begin: f64| ((done - begin) / (total - begin).max(1.0)).clamp(0.0, 1.0);
    let height = match config.schedule {
        Schedule::Constant => return 1.0,
        Schedule::Linear => 1.0 - share_since(warmup),
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share_since(warmup)).cos()),
        Schedule::Wsd => 1.0 - share_since(warmup.max(total - (config.decay_ratio * total).ceil())),
    };
    config.min_lr_ratio + (1.0 - config.min_lr_ratio) * height
}

#[cfg(test)]
mod tests {
    use tolerance::assert_within;

    use super::*;

    fn factor(schedule: Schedule, done: u64) -> f64 {
        let config = OptimizerConfig { schedule, warmup_ratio: 0.1, min_lr_ratio: 0.2, ..OptimizerConfig::default() };
        lr_factor(&config, ScheduleStep { done, total: 110 })
    }

    #[test]
    fn schedules_warm_up_and_fall_as_worked_by_hand() {
        // 11 warm-up updates, 99 after them; the midpoint is update 11 + 49.5.
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine, Schedule::Wsd] {
            assert_eq!(factor(schedule, 0), 0.0);
            assert_within!(factor(schedule, 10) - 10.0 / 11.0, 1e-12);
            assert_within!(factor(schedule, 11) - 1.0, 1e-12);
        }
        assert_eq!(factor(Schedule::Constant, 100), 1.0);
        assert_within!(factor(Schedule::Linear, 44) - (0.2 + 0.8 * 2.0 / 3.0), 1e-12, "a third of the way down");
        assert_within!(factor(Schedule::Cosine, 44) - (0.2 + 0.8 * 0.75), 1e-12, "cos(60°) = 1/2");
        assert_within!(factor(Schedule::Linear, 110) - 0.2, 1e-12);
        // The factor decays over the last 11 of 110 updates.
        assert_eq!((factor(Schedule::Wsd, 50), factor(Schedule::Wsd, 99)), (1.0, 1.0));
        assert_within!(factor(Schedule::Wsd, 102) - (0.2 + 0.8 * 8.0 / 11.0), 1e-12);
        assert_within!(factor(Schedule::Wsd, 110) - 0.2, 1e-12);
        let counted = OptimizerConfig { warmup_steps: 4, ..OptimizerConfig::default() };
        assert_eq!(lr_factor(&counted, ScheduleStep { done: 3, total: 100 }), 0.75);
    }
}
