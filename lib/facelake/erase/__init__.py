"""Erase: what to remove, how to look for what is left, and the certificate. Pure."""

from facelake.erase.certificate import certificate
from facelake.erase.residual import Needles, scan

__all__ = ["Needles", "certificate", "scan"]
