"""Measurements: of quality against labels, of clustering outside a lake."""
