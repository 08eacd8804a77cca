"""Inference runtimes behind one protocol; each is imported when it is asked for."""
