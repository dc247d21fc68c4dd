"""Looking inside: gates and states over time, and how far back gradients reach."""
