"""Engines schedule work on Ray and Spark and contain no algorithms. No other package imports Ray or PySpark."""
