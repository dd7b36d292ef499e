"""Models: the scans that they learn from, their training, and what they are worth."""
