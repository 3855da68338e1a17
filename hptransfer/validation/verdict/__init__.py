"""What finished runs say."""
