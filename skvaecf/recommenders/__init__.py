"""The recommenders, one module per model."""
