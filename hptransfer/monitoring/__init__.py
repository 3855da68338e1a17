"""What a run does while it trains: curvature, spectra, alignment, noise, outputs, and its curve beside a smaller one."""
