"""The service: Label Studio, HTTP, jobs and storage. Nothing here knows science."""

__version__ = "0.1.0"
