"""Read texts and labels from files, the Hugging Face Hub and built-in sets; check, split and sample them."""
