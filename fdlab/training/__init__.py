"""Training: schedules, the one loop that calls backward, evaluation, and runs kept on disk."""
