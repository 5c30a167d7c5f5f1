"""Execute a program with the kernels: numpy arrays in, numpy arrays out, no torch."""

from cosim.execute.builder import KernelChoice, Weights
from cosim.execute.engine import ProgramEngine
from cosim.execute.plan import EXECUTABLE, Plan, fallbacks, lengths_of, plan
from cosim.execute.zeros import ZeroCounts

__all__ = [
    "EXECUTABLE",
    "KernelChoice",
    "Plan",
    "ProgramEngine",
    "Weights",
    "ZeroCounts",
    "fallbacks",
    "lengths_of",
    "plan",
]
