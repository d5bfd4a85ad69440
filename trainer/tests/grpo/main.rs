//! GRPO compared with an independent float64 reference and with TRL, and the effect of each setting.

mod beside_trl;
mod curriculum;
mod losses;
mod on_policy;
mod replaying;
mod resuming;
mod settings;
mod updates;
