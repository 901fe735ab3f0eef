"""Studies that compare forms of a graph, or exporters; each is a command."""
