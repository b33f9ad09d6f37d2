"""Search with what was trained: strategies at one budget of tokens, and beams of many widths."""
