"""Engines schedule the rooms on Ray and Spark; they hold no algorithm. The only place that imports either."""
