"""One law per file: numbers to use at the target, each with an interval and a source."""
