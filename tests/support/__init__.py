"""What surrounds the tests: versions of torch, reference data, code of the documentation."""
