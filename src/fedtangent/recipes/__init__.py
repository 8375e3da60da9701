"""Recipes: a function that returns experiments, and the figure of their records."""
