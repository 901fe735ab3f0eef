"""Forms of the folders that people bring: what their heads mean, and how other layouts are read."""
