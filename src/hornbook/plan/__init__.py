"""Memory, speed, loss and cost of a run, predicted before it begins."""
