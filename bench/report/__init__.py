"""The report as JSON, Markdown and HTML, and the comparison of two reports."""
