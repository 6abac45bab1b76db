"""A model writes down what it knows as a tree of dialogues."""
