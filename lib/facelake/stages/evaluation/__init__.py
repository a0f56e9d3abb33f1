"""Evaluation of a gallery: labels, accuracy and operating points."""
