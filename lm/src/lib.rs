//! The language model on libtorch.
