"""Models of systolic arrays and stacked memory: workloads in, cycles, joules and bytes out."""
