"""Proof that two sides compute the same: in float64 exactly, in lower precision within the measured rounding floor."""

from conversion.parity.asserting import assert_parity
from conversion.parity.compare import Options, Subject, compare
from conversion.parity.results import Check, Place, Report
from conversion.parity.sides import Side

__all__ = ["Check", "Options", "Place", "Report", "Side", "Subject", "assert_parity", "compare"]
