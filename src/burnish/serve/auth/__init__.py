"""API keys, organizations, rate limits."""
