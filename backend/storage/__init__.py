"""What lasts: the database, and files."""
