"""Work while nobody waits for a round: refinement, and studies of labels and of selection."""
