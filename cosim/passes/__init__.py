"""Rewrites of a program: one file per pass, each a function from a graph or program to a new one."""
