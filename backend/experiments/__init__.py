"""Experiments: simulate active learning on a labelled folder, and report the results."""
