"""Packaging for other programs: Ollama, LM Studio, Foundry Local, vLLM, MLflow."""
