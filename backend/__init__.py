"""The service: Label Studio, HTTP, jobs and storage. Nothing here knows science."""
