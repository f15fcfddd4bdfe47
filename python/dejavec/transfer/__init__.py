"""Rows from one cache to another: merging and copying."""
