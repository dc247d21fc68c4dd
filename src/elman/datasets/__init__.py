"""Data: reading files, and what can be had without any."""
