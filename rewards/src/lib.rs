//! Judges, reward terms, their composition, and credit across streaming stages.
