"""ASGI middleware: authentication, metrics, audit."""
