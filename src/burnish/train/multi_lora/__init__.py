"""Several LoRA adapters trained on one base at once."""
