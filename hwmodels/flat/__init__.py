"""The machine on the plain roofline, compiled: plans as arrays, and what happens to them."""
