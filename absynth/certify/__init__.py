"""Certificates: proven lower bounds on how far an image can change before a decision does."""

from absynth.certify.certificate import Certificate, certify
from absynth.certify.summary import SIZES, Summary, certified_accuracy, summarise

__all__ = ["SIZES", "Certificate", "Summary", "certified_accuracy", "certify", "summarise"]
