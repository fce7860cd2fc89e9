"""Exact and approximate search, which every store shares."""
