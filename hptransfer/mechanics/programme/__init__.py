"""The strands of learning mechanics, each a small world with a question, a theory and a simulation of the same."""
