"""Publish: gives groups identity ids that stay stable over gallery versions. No input or output."""

from facelake.publish.identities import Published, Standing, new_identity_id, publish_groups
from facelake.publish.matching import match_groups

__all__ = ["Published", "Standing", "match_groups", "new_identity_id", "publish_groups"]
