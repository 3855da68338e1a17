"""Target against base: which parameters and ops correspond, and what role that gives a parameter."""
