"""Search: measure the latency or size of each width, and find the best architecture for a target."""
