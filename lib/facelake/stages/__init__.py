"""The stages: each reads the lake, lets a room decide, and commits. An engine schedules where work is many."""
