"""Training: truncated backpropagation through time, the training loop, and the directories of runs."""
