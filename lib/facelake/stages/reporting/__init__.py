"""The report of a run: its measures, history and face sheets."""
