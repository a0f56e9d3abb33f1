"""The client of a downstream matcher: opens a leased export, answers 1:1 and 1:N, applies changes."""

from facelake.matcher.gallery import Gallery, Matches

__all__ = ["Gallery", "Matches"]
