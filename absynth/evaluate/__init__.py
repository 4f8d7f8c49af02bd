"""The benchmark: models × attacks × images, with records that survive interruption."""
