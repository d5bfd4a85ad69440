//! Reward terms that programs and endpoints compute, with real processes and every way in which they fail.

mod composed;
mod endpoints;
mod failures;
mod fixture;
mod programs;
