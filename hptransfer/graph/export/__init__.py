"""Graphs by torch.export."""
