"""Sweeps: many runs of one file, resumable, measured on held-out prompts, compared with intervals."""
