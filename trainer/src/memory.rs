//! Memory: what is held, and what a run will need.

/// The most memory this process has held at once, GiB, as Linux counts it (VmHWM); `None` elsewhere.
pub fn peak_gib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / f64::from(1 << 20))
}
