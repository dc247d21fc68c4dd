"""Looking inside a network: its gates and states over time, and how far back gradients reach."""
