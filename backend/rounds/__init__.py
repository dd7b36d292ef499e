"""A round: from synchronised labels to a published queue."""
