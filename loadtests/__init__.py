"""What a server holds: many users at once over HTTP. Knows the wire format only, and imports nothing of ours."""
