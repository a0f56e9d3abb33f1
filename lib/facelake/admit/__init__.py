"""Admission: decides from the ledger whether a photo may be processed for a purpose, before it is decoded."""

from facelake.admit.rules import Decision, Decisions, Event, Ledger, decide, decide_rows

__all__ = ["Decision", "Decisions", "Event", "Ledger", "decide", "decide_rows"]
