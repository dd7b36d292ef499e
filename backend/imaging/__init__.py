"""Fetch and decode images: bytes in, arrays out."""
