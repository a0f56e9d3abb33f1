"""Cluster: neighbours, edges, groups. Pure numpy; groups have no name and no memory."""

from facelake.cluster.calibrate import Calibration, Prior, calibrate, with_level
from facelake.cluster.groups import group
from facelake.cluster.neighbours import Lists, exact_join, join_list, make_lists, union_topk

__all__ = [
    "Calibration",
    "Lists",
    "Prior",
    "calibrate",
    "exact_join",
    "group",
    "join_list",
    "make_lists",
    "union_topk",
    "with_level",
]
