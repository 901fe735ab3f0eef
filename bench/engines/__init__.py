"""The engines that a report compares, one module for each kind. Each engine runs in its own process."""
