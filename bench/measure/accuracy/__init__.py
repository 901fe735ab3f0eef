"""Task metrics of predictions, and paired differences with valid confidence intervals."""
