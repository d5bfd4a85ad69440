//! `xplore sft` on several ranks: the same results as on one process, with any sharding; and the end of a job when a rank ends.

mod ends;
mod holds;
mod job;
mod losses;
mod resumes;
