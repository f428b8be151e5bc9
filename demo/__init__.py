"""The demo checkpoint: a small model fine-tuned on home commands, and everything that made it."""
