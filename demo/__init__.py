"""A real Label Studio, the backend and, if asked, a simulated annotator, in one command."""
