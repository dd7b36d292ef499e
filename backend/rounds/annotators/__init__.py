"""What annotators do: their minutes, their agreement, and second readings."""
