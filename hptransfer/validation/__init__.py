"""Proof on proxies: sweeps, studies and the verdict on whether an optimum transfers."""
