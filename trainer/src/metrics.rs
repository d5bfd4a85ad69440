//! The metrics of a step.

use serde_json::{Map, Value as Json};

/// The metrics of a step, in insertion order.
pub type Metrics = Map<String, Json>;
