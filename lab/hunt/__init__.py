"""A search for wrong numbers: random experiments, each judged, and the smallest one that contradicts the truth."""
