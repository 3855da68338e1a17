"""What a run does while it trains: curvature, spectra, alignment, noise, outputs, its curve beside a smaller run's."""
