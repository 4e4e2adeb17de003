"""Whole decoder layers in one call of the kernels, what acts between layers, and pages of keys and values."""
