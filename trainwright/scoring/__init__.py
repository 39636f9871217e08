"""How good predictions are: what several kinds of task count alike, and how sure of it one may be."""
