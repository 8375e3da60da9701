"""Recipes: a paper's table or figure, measured anew by `fedtangent recipe`; and the experiments of the demo."""
