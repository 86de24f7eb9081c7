"""A comparison of the tiny model on rows that a small fine-tune learns in seconds."""

from tests.tickets import ticket_recipe

__all__ = ["ticket_recipe"]
