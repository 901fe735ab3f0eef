"""Folders on disk: finished stages and their manifests, locks, atomic writes, and the inventory of a store."""
