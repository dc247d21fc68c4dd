"""Training: truncated backpropagation through time, the loop, run directories."""
