"""Publish: groups get identity ids that mean something tomorrow. Pure."""

from facelake.publish.identities import Published, Standing, new_identity_id, publish_groups
from facelake.publish.matching import match_groups

__all__ = ["Published", "Standing", "match_groups", "new_identity_id", "publish_groups"]
