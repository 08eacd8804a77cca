"""Benchmarks: one script per table, records in results/, tables in the README rendered from them."""
