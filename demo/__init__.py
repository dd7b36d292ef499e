"""A simulated annotator on a real Label Studio, to see and to measure the service at work."""
