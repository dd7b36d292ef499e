"""Persistent data: the database and the artifacts."""
