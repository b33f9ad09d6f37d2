"""The demonstration: the whole story on the built-in world."""
