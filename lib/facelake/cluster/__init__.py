"""Cluster: neighbours, edges, groups. Pure numpy; groups have no name and no memory."""
