"""The web process: it answers Label Studio and people over HTTP."""
