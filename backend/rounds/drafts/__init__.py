"""Drafts: made, shown, corrected by clicks, and compared with what people submit."""
