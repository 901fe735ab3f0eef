"""The full model in other engines: the baselines of a report."""
