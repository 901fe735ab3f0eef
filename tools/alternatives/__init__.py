"""What people would use instead of Prunella, measured beside it."""
