"""The stages: each reads the lake, calls a domain package to decide, and commits. Engines schedule the heavy ones."""
