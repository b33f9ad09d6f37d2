"""Is it credit? What implicit advantages find among wrong tokens that are known."""
