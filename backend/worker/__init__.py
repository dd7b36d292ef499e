"""The worker: the process that runs rounds."""
