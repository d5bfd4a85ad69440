//! Tests of reading data files: every key of the configuration, and a comparison with TRL.

mod fixtures;
mod keys;
mod mixing;
mod reference;
mod storage;
