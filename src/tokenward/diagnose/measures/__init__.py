"""Numbers with intervals: means, areas, correlations, values and frontiers."""
