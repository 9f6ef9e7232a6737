"""Environments, and how the algorithms step them."""
