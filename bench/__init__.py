"""Benchmarks: each a command, its figures ratios against a baseline of the same run."""
