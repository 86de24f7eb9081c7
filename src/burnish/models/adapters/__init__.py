"""Adapter modules that PEFT does not have."""
