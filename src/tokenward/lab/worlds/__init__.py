"""Worlds small enough to enumerate: token trees, their prompts and data, and the files that describe them."""
