"""Rewrites: one file per pass, each a function from a graph or program to a new one."""
