"""Distillation: a teacher answers, a student learns."""
