"""Load tests of a running server over HTTP. They know the wire format only, and import nothing from Prunella."""
