"""The configuration: one YAML file, validated completely before any work starts. It must not contain secrets."""

from __future__ import annotations

from facelake.config.loading import load_config, read_local, read_yaml_as
from facelake.config.sections import (
    USUAL_HASH_KEY,
    USUAL_LEDGER_COPY,
    ClusterSection,
    Config,
    EmbedSection,
    GallerySection,
    GovernanceSection,
    LineageSection,
    ModelSection,
    PlanSection,
    RaySection,
    ReportSection,
    S3Section,
    SparkSection,
    TracingSection,
)
from facelake.config.shipped_files import conf_dir, package_dir

__all__ = [
    "USUAL_HASH_KEY",
    "USUAL_LEDGER_COPY",
    "ClusterSection",
    "Config",
    "EmbedSection",
    "GallerySection",
    "GovernanceSection",
    "LineageSection",
    "ModelSection",
    "PlanSection",
    "RaySection",
    "ReportSection",
    "S3Section",
    "SparkSection",
    "TracingSection",
    "conf_dir",
    "load_config",
    "package_dir",
    "read_local",
    "read_yaml_as",
]
