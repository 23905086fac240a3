"""LSTM, GRU and RNN as products with constant weights and the operators between them, unrolled over
time: one product takes the inputs of all steps to the gates, and in each step one product, of the
same weights each time, takes the state there.

Equations, and the order of the gates: the ONNX operator reference, LSTM-22, GRU-22 and RNN-22.
"""

from collections.abc import Callable

import numpy as np

from zeroskip.sw.frontends.constants import Reject
from zeroskip.sw.frontends.rewriting import Rewriter

LONGEST = 1024
"""Most steps of time that are unrolled: each is several nodes of the graph."""

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
"""Whether each direction begins at the end."""

ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
"""What is computed of the gates of one direction where nothing else is asked for."""

RNN = {"tanh": "Tanh", "relu": "Relu"}
"""What a step of RNN may end with, as an operator."""

State = tuple[str, ...]
"""What a step hands on, [batch, hidden] each: the output, and the cell of an LSTM."""


def unroll(own: Rewriter) -> None:
    """Puts products and operators in place of a recurrent node."""
    layer = _Layer(own)
    last = [layer.run(number, reverse) for number, reverse in enumerate(layer.directions)]
    layer.outputs([steps for steps, _ in last], [state for _, state in last])


RULES = dict.fromkeys(("LSTM", "GRU", "RNN"), unroll)


class _Layer:
    """A recurrent node: what is known of it, and its steps."""

    def __init__(self, own: Rewriter):
        self.own, self.kind = own, own.node.op_type
        direction = own.given.get("direction", b"forward").decode(errors="replace")
        if direction not in DIRECTIONS:
            raise Reject(f"its direction is {direction!r}")
        self.directions = DIRECTIONS[direction]
        self.activations = self._activations()
        shape = own.shape(own.node.input[0])
        self.batch_first = bool(own.given.get("layout", 0))
        self.time, self.batch = shape[:2][::-1] if self.batch_first else shape[:2]
        self._check()
        self._weights(shape[2])
        self.before = bool(own.given.get("linear_before_reset", 0))
        self.x = own.node.input[0]
        if self.batch_first:
            self.x = own.add("Transpose", [self.x], (self.time, self.batch, shape[2]),
                             perm=[1, 0, 2])
        self.x = own.reshaped(self.x, (self.time * self.batch, shape[2]))
        self.step: Callable[[str, State | None], State] = {
            "LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.kind]

    def _activations(self) -> list[str]:
        count = len(self.directions)
        given = [each.decode(errors="replace").lower()
                 for each in self.own.given.get("activations", [])]
        if self.kind == "RNN" and len(given) in (0, count) and set(given) <= set(RNN):
            return given or ["tanh"] * count
        if self.kind == "RNN" or given not in ([], ACTIVATIONS[self.kind] * count):
            raise Reject(f"its activations are {', '.join(given)}: only those that it has by "
                         f"default{', and relu,' * (self.kind == 'RNN')} are unrolled")
        return ACTIVATIONS[self.kind]

    def _check(self) -> None:
        """Raises :class:`Reject` for what the equations here do not have."""
        if self.own.given.get("clip"):
            raise Reject("it clips its gates, which none of its products does")
        if self.own.given.get("input_forget", 0):
            raise Reject("its input and forget gates are coupled")
        if self.own.operand(7) is not None:
            raise Reject("it has peepholes, which are no product")
        lengths = self.own.known(4)
        if self.own.operand(4) is not None and (lengths is None or (lengths != self.time).any()):
            raise Reject("its sequence_lens end sequences early: pad them to one length, and "
                         "export the model without sequence_lens")
        if self.time * len(self.directions) > LONGEST:
            raise Reject(f"its {self.time:,} steps of time in {len(self.directions)} direction(s) "
                         f"are more than the {LONGEST:,} that are unrolled")

    def _weights(self, inputs: int) -> None:
        own, count = self.own, len(self.directions)
        self.w, self.r = own.weight(1, "weights"), own.weight(2, "weights")
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[self.kind]
        self.hidden = self.r.shape[-1]
        rows = gates * self.hidden
        self.b = np.zeros((count, 2 * rows), own.dtype) if own.operand(3) is None \
            else own.weight(3, "biases")
        for tensor, shape in ((self.w, (count, rows, inputs)), (self.r, (count, rows, self.hidden)),
                              (self.b, (count, 2 * rows))):
            if tensor.shape != shape:
                raise Reject(f"a weight or bias has shape {list(tensor.shape)}, not {list(shape)}")

    def _initial(self, number: int) -> State | None:
        """The state before the first step; None where it is zero."""
        indices = [5, 6] if self.kind == "LSTM" else [5]
        known = [self.own.known(index) for index in indices]
        if all(self.own.operand(index) is None or (values is not None and not values.any())
               for index, values in zip(indices, known, strict=True)):
            return None
        shape = (self.batch, self.hidden)
        return tuple(self.own.constant(np.zeros(shape, self.own.dtype)) if name is None
                     else self.own.part(name, number, int(self.batch_first), shape)
                     for name in map(self.own.operand, indices))

    def run(self, number: int, reverse: bool) -> tuple[list[str], State]:
        """The outputs of a direction's steps, in the order of time, and the last state."""
        own, rows = self.own, self.w.shape[1]
        self.called = "reverse:" * reverse
        self.activation = RNN.get(self.activations[number], "") if self.kind == "RNN" else ""
        of_input, of_state = self.b[number, :rows], self.b[number, rows:]
        apart = self.kind == "GRU" and self.before  # the reset gate is between the two biases
        bias = own.constant(of_input if apart else of_input + of_state)
        self.recurrent = self._recurrent(self.r[number], of_state * apart)
        gates = own.product(self.x, own.constant(self.w[number]), bias,
                            (self.time * self.batch, rows), f"{self.called}input")
        gates = own.reshaped(gates, (self.time, self.batch, rows))
        state, outputs = self._initial(number), {}
        for at in reversed(range(self.time)) if reverse else range(self.time):
            self.at = at
            state = self.step(own.part(gates, at, 0, (self.batch, rows)), state)
            outputs[at] = state[0]
        return [outputs[at] for at in range(self.time)], state

    def _recurrent(self, weight: np.ndarray, bias: np.ndarray) -> list[tuple[str, str]]:
        """Weights and biases of the products of a step, as constants."""
        parts = [slice(None)]
        if self.kind == "GRU" and not self.before:      # the last gate's follows the reset gate
            parts = [slice(2 * self.hidden), slice(2 * self.hidden, None)]
        return [(self.own.constant(weight[part]), self.own.constant(bias[part])) for part in parts]

    def _product(self, state: str, number: int = 0) -> str:
        weight, bias = self.recurrent[number]
        rows = self.own.weights[bias].size
        return self.own.product(state, weight, bias, (self.batch, rows),
                                f"{self.called}hidden{number or ''}:{self.at}")

    def _op(self, operator: str, *inputs: str) -> str:
        """An operator on values [batch, hidden]."""
        return self.own.add(operator, inputs, (self.batch, self.hidden))

    def _gates(self, values: str, count: int) -> list[str]:
        """Values [batch, count * hidden], gate by gate."""
        apart = self.own.reshaped(values, (self.batch, count, self.hidden))
        return [self.own.part(apart, gate, 1, (self.batch, self.hidden)) for gate in range(count)]

    def _sum(self, x: str, state: State | None, rows: int) -> str:
        """What a step's input and the state give, [batch, rows]."""
        if state is None:
            return x
        return self.own.add("Add", [x, self._product(state[0])], (self.batch, rows))

    def _lstm(self, x: str, state: State | None) -> State:
        i, o, f, c = self._gates(self._sum(x, state, 4 * self.hidden), 4)
        cell = self._op("Mul", self._op("Sigmoid", i), self._op("Tanh", c))
        if state is not None:
            cell = self._op("Add", self._op("Mul", self._op("Sigmoid", f), state[1]), cell)
        return self._op("Mul", self._op("Sigmoid", o), self._op("Tanh", cell)), cell

    def _rnn(self, x: str, state: State | None) -> State:
        return self._op(self.activation, self._sum(x, state, self.hidden)),

    def _gru(self, x: str, state: State | None) -> State:
        xz, xr, xh = self._gates(x, 3)
        before = None if state is None else state[0]
        z, r, h = self._gru_state(before)
        z = self._op("Sigmoid", xz if z is None else self._op("Add", xz, z))
        if before is not None or self.before:
            reset = self._op("Sigmoid", xr if r is None else self._op("Add", xr, r))
            h = self._op("Mul", reset, h) if self.before \
                else self._product(self._op("Mul", reset, before), 1)
        h = self._op("Tanh", xh if h is None else self._op("Add", xh, h))
        one = self.own.constant(np.ones(1, self.own.dtype))
        new = self._op("Mul", self._op("Sub", one, z), h)
        return (new if before is None else self._op("Add", new, self._op("Mul", z, before)),)

    def _gru_state(self, state: str | None) -> list[str | None]:
        """What the state adds to each gate; None for nothing."""
        if not self.before:
            return [None] * 3 if state is None else [*self._gates(self._product(state), 2), None]
        if state is not None:
            return self._gates(self._product(state), 3)
        bias = self.own.weights[self.recurrent[0][1]]       # all that the product of zeros gives
        return self._gates(self.own.constant(np.tile(bias, (self.batch, 1))), 3)

    def outputs(self, steps: list[list[str]], last: list[State]) -> None:
        """Gives what the node gave: all outputs, and the last state of each direction."""
        node, count = self.own.node, len(self.directions)
        names = [*node.output, "", "", ""]
        if names[0]:
            every = [self._joined([self.own.reshaped(h, (1, 1, self.batch, self.hidden))
                                   for h in each], 0, (self.time, 1, self.batch, self.hidden))
                     for each in steps]
            shape = (self.time, count, self.batch, self.hidden)
            self._give(self._joined(every, 1, shape), 0, shape, [2, 0, 1, 3])
        for index in range(len(last[0])):
            if names[1 + index]:
                shape = (count, self.batch, self.hidden)
                every = [self.own.reshaped(state[index], (1, *shape[1:])) for state in last]
                self._give(self._joined(every, 0, shape), 1 + index, shape, [1, 0, 2])

    def _joined(self, values: list[str], axis: int, shape: tuple[int, ...]) -> str:
        return values[0] if len(values) == 1 else self.own.add("Concat", values, shape, axis=axis)

    def _give(self, value: str, index: int, shape: tuple[int, ...], order: list[int]) -> None:
        if self.batch_first:
            value = self.own.add("Transpose", [value], [shape[at] for at in order], perm=order)
        self.own.gives(value, index)
