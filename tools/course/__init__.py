"""The course in docs/learn: reads its chapters, runs them, and makes the pages and notebooks of the site."""
