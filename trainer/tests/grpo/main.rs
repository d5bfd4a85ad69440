//! GRPO compared with an independent float64 reference and with TRL, and the effect of each setting.

mod alarm;
mod beside_trl;
mod curriculum;
mod judging;
mod losses;
mod messages;
mod on_policy;
mod panel;
mod published;
mod replaying;
mod resuming;
mod settings;
mod term_gradients;
mod updates;
