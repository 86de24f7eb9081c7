"""Models that answer for distillation and judging."""
