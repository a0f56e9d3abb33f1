"""The layouts in which users keep photos, each read where it lies."""
