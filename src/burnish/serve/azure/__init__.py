"""Azure OpenAI: deployments."""
