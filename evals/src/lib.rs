//! Benchmarks and inference settings, with intervals over people.
