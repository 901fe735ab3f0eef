"""What a model is (here), where its texts come from (`data`), and how it learns (`train`).

Importing this package imports no torch: the service uses `task`, `tokens`, `folder`, `record` and `errors` from here.
"""
