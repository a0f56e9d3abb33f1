"""Erasure: the residual scan, the certificate and its signature. Only the signing key's file is read or written."""

from facelake.erase.certificate import certificate
from facelake.erase.needles import Bounds, Needles
from facelake.erase.residual import scan
from facelake.erase.signing import Signer, verify

__all__ = ["Bounds", "Needles", "Signer", "certificate", "scan", "verify"]
