"""/fine_tuning: jobs, their worker and trainer process."""
