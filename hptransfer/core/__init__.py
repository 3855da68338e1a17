"""Recipes, the graph of parameter uses, roles and scaling rules: what every other package builds on."""
