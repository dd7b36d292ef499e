"""Masks out: what people drew, or what the model draws, as files that other programs read."""
