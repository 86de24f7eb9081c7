"""/vector_stores."""
