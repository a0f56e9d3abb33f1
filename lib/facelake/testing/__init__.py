"""Servers and worlds for tests; ships with the package so that users can test their own jobs, needs the test extra."""
