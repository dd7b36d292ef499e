"""All requests to Label Studio, and its labels as masks."""
