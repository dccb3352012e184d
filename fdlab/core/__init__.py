"""Paths, configurations, seeds, fingerprints, records: what every other layer stands on."""
