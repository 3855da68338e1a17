"""The target run's values, each with an interval and a source."""
