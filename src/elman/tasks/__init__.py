"""Tasks: what a network is trained to do, and how it is evaluated."""
