//! What becomes of files of rows, by every key of the configuration, and beside TRL.

mod fixtures;
mod keys;
mod mixing;
mod storage;
mod witness;
