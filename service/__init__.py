"""Answers over HTTP; file order is the request path. Imports neither torch nor transformers nor optimum."""
