"""Merge, judge, score, page: the compiled twins of the domain's functions."""
