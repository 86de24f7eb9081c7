"""Trainers, one a kind of model."""
