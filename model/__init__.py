"""Weights and modules live here; nothing in this package knows data, training or clusters."""
