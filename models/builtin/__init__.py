"""Built-in sets and encoders: one file for each, from packages whose content is checked by hash."""
