"""A program as an engine for decoding: the encoder over any length, and single-token steps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cosim.execute.builder import Array, KernelChoice, Weights
from cosim.execute.plan import Plan, lengths_of, plan
from cosim.execute.zeros import ZeroCounts

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class _Plans:
    """Both graphs planned for one length; `step` is None for a model that only has an encoder."""

    encoder: Plan
    step: Plan | None


@dataclass(frozen=True)
class Saved:
    """The caches of `past` tokens, copied."""

    past: int
    caches: Mapping[str, Array]


class ProgramEngine:
    """Encoder and, where the program has one, decoder; one engine serves one thread.

    Graphs are planned for the length of the features, and the last plan is kept. Engines of one
    program share `weights`, which hold every panel once whatever the lengths. `counts` takes how
    many activations are zero, which takes time.
    """

    def __init__(
        self, weights: Weights, *, length: int | None = None, counts: ZeroCounts | None = None
    ) -> None:
        self.weights = weights
        self.counts = counts
        self._input = weights.program.graph("encoder").inputs[0]
        self._length = 0
        self._plans: _Plans | None = None
        if length is not None:
            self.prepare(length)

    def prepare(self, length: int) -> None:
        """Plan for features of that length, as the first utterance of it would."""
        self._plan(length)

    def _plan(self, length: int) -> _Plans:
        if self._plans is None or self._length != length:
            self._plans = None  # frees the buffers of the last length before new ones are made
            program = self.weights.program
            graph = program.graph("encoder")
            encoder = plan(
                self.weights,
                "encoder",
                bindings=dict.fromkeys(graph.symbols, length),
                counts=self.counts,
            )
            step = None
            if "step" in program.graph_names:
                wanted = program.graph("step").inputs
                handed = {
                    name: encoder.output(name) for name, _ in graph.outputs if f"%{name}" in wanted
                }
                bindings = lengths_of(program.graph("step"), handed)
                step = plan(
                    self.weights, "step", bindings=bindings, inputs=handed, counts=self.counts
                )
            self._plans, self._length = _Plans(encoder, step), length
        return self._plans

    @property
    def encoder(self) -> Plan:
        """The encoder's present plan; ValueError before anything was encoded."""
        if self._plans is None:
            raise ValueError("engine: found no plan, expected a call of encode first")
        return self._plans.encoder

    @property
    def decoder(self) -> Plan:
        """The plan of a step; ValueError for a program that has only an encoder."""
        if self._plans is None or self._plans.step is None:
            raise ValueError("engine: found no plan of a graph `step`, expected a call of encode")
        return self._plans.step

    def encode(self, features: F32) -> Mapping[str, Array]:
        """Run the encoder on its one input without the batch axis; return its outputs by name.

        They are overwritten by the next call. Tokens decoded so far are forgotten.
        """
        graph = self.weights.program.graph("encoder")
        axis = next(
            i for i, dim in enumerate(graph.types[self._input].shape) if not isinstance(dim, int)
        )
        encoder = self._plan(features.shape[axis - 1]).encoder
        np.copyto(encoder.input(self._input[1:])[0], features)
        encoder.run()
        return {name: encoder.output(name) for name, _ in graph.outputs}

    def step(self, token: int, past: int) -> F32:
        """Return logits [vocabulary] after `token` at position `past`; overwritten by the next."""
        step = self.decoder
        step.input("token")[0, 0] = token
        step.run(past)
        return step.output("logits").reshape(-1)

    def saved(self, past: int) -> Saved:
        """Return a copy of the caches of the first `past` tokens."""
        step = self.decoder
        return Saved(past, {name: step.rows(name, past).copy() for name, _ in step.graph.states})

    def restore(self, saved: object) -> None:
        """Make the caches those that were saved."""
        if not isinstance(saved, Saved):
            raise TypeError(f"restore: found {type(saved).__name__}, expected what saved returns")
        step = self.decoder
        for name, rows in saved.caches.items():
            np.copyto(step.rows(name, saved.past), rows)

    @property
    def kernels(self) -> tuple[KernelChoice, ...]:
        """Which kernel executes each op, and why, for the present length."""
        step = self._plans.step if self._plans is not None else None
        return (*self.encoder.kernels, *(step.kernels if step is not None else ()))
