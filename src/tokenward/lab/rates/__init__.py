"""How fast: curvature, contraction, comparison graphs as designs, finite data."""
