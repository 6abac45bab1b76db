"""The layer that knows everything: recipes, runs, evaluation and the command line."""
