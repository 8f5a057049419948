"""Chains: a picture is looked at by one model, and another writes about what was seen."""
