"""Exact and approximate search, which every home shares."""
