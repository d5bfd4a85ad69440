//! `xplore sft` on several processes: the same as on one, whatever each holds; and how a job ends when a rank does.

mod ends;
mod holds;
mod job;
mod losses;
mod resumes;
#[path = "../rows/mod.rs"]
mod rows;
#[path = "../tiny/mod.rs"]
mod tiny;
