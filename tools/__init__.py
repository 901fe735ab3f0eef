"""Tools that produce docs/results. They are not part of the installed package."""
