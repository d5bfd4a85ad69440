//! The parts of libtorch that tch does not bind; all C++ and nearly all unsafe code live here.
