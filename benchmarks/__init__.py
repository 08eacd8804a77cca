"""Benchmarks: one script per table, records in results/; README.md and pages/ show the tables rendered from them."""
