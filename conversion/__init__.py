"""Files: what checkpoints are called and how they lie on disk. Needs no framework."""
