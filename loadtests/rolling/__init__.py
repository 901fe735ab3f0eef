"""Restart servers one after the other behind a round-robin client: python -m loadtests.rolling COMMAND.

COMMAND starts a server on the port that replaces `{port}` in it, and ends it at SIGTERM, such as
`prunella serve BUNDLE --device cpu --port {port}` or `podman run …`. The client stands for a load balancer: it sends
each request to the next server whose /readyz answered 200 last time it was asked. The exit code is 1 if a request
got no answer, or another than 200. The last line of stdout is JSON.
"""
