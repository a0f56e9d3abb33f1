"""facelake: a nightly pipeline from a consented image corpus to a Delta Lake gallery of identities."""

__version__ = "0.1.0"
