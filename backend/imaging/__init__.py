"""Bytes in, arrays out."""
