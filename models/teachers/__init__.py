"""Teachers of a fine-tuning: classifiers or files of scores, whose answers a student learns."""
