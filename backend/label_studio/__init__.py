"""All that is said to Label Studio, and how its labels are read."""
