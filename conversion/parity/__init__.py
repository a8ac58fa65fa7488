"""Proof that two sides compute the same: in float64 exactly, in lower precision within the measured rounding floor."""
