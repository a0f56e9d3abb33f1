"""Admission: may this photo be processed for this purpose, today? Decided before a pixel is decoded."""

from facelake.admit.rules import Decision, Decisions, Event, Ledger, decide, decide_rows

__all__ = ["Decision", "Decisions", "Event", "Ledger", "decide", "decide_rows"]
