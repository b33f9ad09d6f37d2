"""What a data file holds, and what its comparisons can fix."""
