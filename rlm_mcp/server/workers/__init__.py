"""Worker processes: what tenants, files, models and their code made is handled outside the process that serves all."""
