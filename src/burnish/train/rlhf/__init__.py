"""Reinforcement learning: rollouts, generation, reference."""
