"""What a model is, and how it is trained.

Importing this package imports no torch: the service uses `task`, `tokens`, `texts`, `folder` and `errors` from here.
"""
