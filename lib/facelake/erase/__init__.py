"""Erase: how to look for what is left, the certificate, and the key that signs it. Pure but for the key's file."""

from facelake.erase.certificate import certificate
from facelake.erase.residual import Needles, scan
from facelake.erase.signing import Signer, verify

__all__ = ["Needles", "Signer", "certificate", "scan", "verify"]
