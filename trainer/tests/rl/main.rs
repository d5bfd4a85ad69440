//! GRPO: against an independent float64 reference, against TRL, and each setting by what it does.

mod beside_trl;
mod curriculum;
mod fixtures;
mod losses;
mod on_policy;
mod replaying;
mod resuming;
mod settings;
mod updates;
#[path = "../../../scripts/witness/ask.rs"]
mod witness;
