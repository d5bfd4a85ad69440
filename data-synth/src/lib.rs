//! From interactions to training rows: importers, synthesis, the built-in world.
