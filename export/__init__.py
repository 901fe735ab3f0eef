"""The same model in the runtime's form."""
