"""A plan applied: weights, optimizer groups, checkpoints, trainers."""
