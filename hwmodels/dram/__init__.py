"""Dynamic memory, clock by clock: timing tables, address maps and the controller."""
