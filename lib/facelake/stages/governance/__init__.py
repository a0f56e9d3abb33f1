"""Governance of a lake: the required assessment and the record of processing activities."""
