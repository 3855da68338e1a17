"""The loss law L(N, D): fitted, along one line only, and tested backwards."""
