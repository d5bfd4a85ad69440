//! The typed run configuration and the prompt templates.
