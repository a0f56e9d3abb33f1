"""Benchmarks of speed, memory, scaling and recognition quality."""
