"""Removing people, photos or sources everywhere, with proof."""
