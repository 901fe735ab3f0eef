"""Processes: the supervisor, its workers, the lifecycle that decides which of them run, and the model store."""
