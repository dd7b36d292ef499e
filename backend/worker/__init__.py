"""The process that makes rounds."""
