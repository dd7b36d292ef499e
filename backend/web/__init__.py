"""What Label Studio and people ask over HTTP."""
