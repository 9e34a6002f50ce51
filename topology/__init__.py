"""Graphs of workers: computed by everyone alike, never negotiated."""
