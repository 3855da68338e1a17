"""Graphs of models that torch.export cannot trace: run once and recorded."""
