"""A real Label Studio, a backend and, if asked, a simulated annotator, in one command."""
