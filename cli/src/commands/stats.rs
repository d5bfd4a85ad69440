//! Statistics of a run of the engine.

use std::time::Instant;

use lm::engine::EngineStats;
use serde_json::json;

/// Statistics from the end of model loading.
pub struct Stats {
    begun: Instant,
}

impl Stats {
    /// Starts the measurement. Resets the peak memory if the system supports it (Linux).
    pub fn begin() -> Self {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self { begun: Instant::now() }
    }

    /// Prints one JSON line, to standard output if the rows went to a file, else to standard error.
    pub fn print(&self, counts: &EngineStats, rows_to_file: bool) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let made =
            if counts.sampled_tokens > 0 { counts.sampled_tokens } else { counts.prompt_tokens + counts.shared_tokens };
        let line = json!({
            "prompt_tokens": counts.prompt_tokens + counts.shared_tokens,
            "prompt_tokens_shared": counts.shared_tokens,
            "generated_tokens": counts.sampled_tokens,
            "prefill_seconds": counts.prefill_seconds,
            "decode_seconds": counts.decode_seconds,
            "seconds": seconds,
            "tokens_per_second": made as f64 / seconds,
            "decode_tokens_per_second": counts.decoded_tokens as f64 / counts.decode_seconds.max(1e-9),
            "forward_passes": counts.passes,
            "preemptions": counts.preemptions,
            "peak_memory_bytes": trainer::memory::peak_bytes(),
        });
        if rows_to_file {
            println!("{line}");
        } else {
            eprintln!("{line}");
        }
    }
}
