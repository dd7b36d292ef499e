"""A labelled folder in, tables and pictures out."""
