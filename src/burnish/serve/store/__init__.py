"""The SQL store: files, jobs, objects, deployments, quotas."""
