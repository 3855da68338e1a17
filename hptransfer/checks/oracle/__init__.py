"""The role oracle: a plan held against measured gradients and activations."""
