//! `xplore sft` on several ranks: the same results as on one process, with any sharding; and the end of a job when a rank ends.
//! `xplore rl` with reward terms that a program computes.

mod ends;
mod external;
mod holds;
mod job;
mod losses;
mod resumes;
