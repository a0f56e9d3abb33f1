"""Reports runs to other systems, if the config names them: OpenLineage events and OpenTelemetry traces."""
