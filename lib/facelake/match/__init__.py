"""Matching of photos against an export, and the evaluation of a matcher on labelled photos."""
