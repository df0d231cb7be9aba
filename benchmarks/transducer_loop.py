"""Greedy transducer decoding on a GPU: the whole loop as one TensorRT plan, and plans of a few turns in a host loop.

    python benchmarks/transducer_loop.py run benchmarks/results          # on the GPU, TensorRT 10
    python benchmarks/transducer_loop.py run /tmp/results --rtx --small        # anywhere: builds, and a check

The decoder of one batch looks at one frame of every row in each *turn*: joint network, argmax, blank rule, prediction
network for the rows that emitted a token. Rows that are done, or whose `CAPACITY` of tokens is full, do nothing.
Forms of it:

- `loop`: one plan with an ONNX `Loop` around 1 to 8 turns, which TensorRT runs until every row is done;
- `calls`: a plan of one or more turns without a loop; the host starts it until a flag says that every row is done.
  Several calls are one CUDA graph. With `ahead`, a graph waits in the stream while the host reads the flag;
- `cpu`: a loop for ONNX Runtime that computes only the rows that need it, on all cores.

With `look` above 1 a turn looks at several frames at once and skips blanks within them, which is exact, since a blank
leaves the prediction network as it is.

Heads have random weights, with biases such that 0.3 tokens are emitted a frame. Each form is checked against numpy:
tokens, frames and durations. Where FP16 decides otherwise, numpy's margin at that decision says whether it was a near
tie. Beside a stand-in encoder that takes as long as the 115M one, decoders show what they cost there. Needs torch for
that encoder alone, TensorRT and cuda-bindings.

Writes `transducer_loop.json` (one record a case: `ms` and `us_a_turn` by the median of some runs, rates of padded and
of valid audio, `share_beside_encoder`: of the GPU's time if decoder and encoder took turns) and `transducer_loop.png`.
"""

import dataclasses
import importlib
import importlib.metadata
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper

from asr_contract.errors import BuilderError, GpuError
from model_builder import cuda, tensorrt
from model_builder.progress import NullTask

Array = npt.NDArray[Any]
FRAME_SECONDS = 0.08
FRAMES = {2: 25, 15: 188, 30: 375}
"""Frames of the encoder by seconds of audio."""
JOINT = HIDDEN = 640
DURATIONS = (0, 1, 2, 3, 4)
DURATION_SHARES = (0.10, 0.15, 0.25, 0.20, 0.30)
"""How often each duration comes: near what published TDT models do."""
TOKENS_PER_FRAME = 0.30
MAX_SYMBOLS = 10
CAPACITY = 192
USUAL = 15
"""Seconds of the rows that everything is measured with."""
BATCHES = (256, 128, 64, 16, 1)
SHORTEST_SHARE = 0.7
"""Rows of a batch are this share to all of its length."""
NEAR_TIE = {"FP32": 1e-3, "FP16": 0.05}
"""Margin between the two best logits, below which a precision may decide otherwise. Logits spread by about 2."""
REPEATS = 15
WORKERS = 8
ENCODER_RATE = 60_000
"""Audio seconds a second of the 115M encoder's plan on an H100 (`plans_h100.json`)."""


# Heads


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """Prediction and joint network as tables; all numbers are exact in FP16, so that one reference serves both.

    Attributes:
        first: [V + 1, 4H]: embedding times input weights plus biases of the first LSTM layer; gates i, f, g, o.
        recurrent: [H, 4H] of the first layer.
        deeper: [2H, 4H] for input and state, and [4H], of each layer after it.
        project: [H, J].
        out: [J, V + 1 + durations].
        out_bias: Of it.
    """

    first: Array
    recurrent: Array
    deeper: tuple[tuple[Array, Array], ...]
    project: Array
    out: Array
    out_bias: Array

    @property
    def blank(self) -> int:
        """Index of the blank token."""
        return len(self.first) - 1

    @property
    def layers(self) -> int:
        """Of the LSTM."""
        return 1 + len(self.deeper)

    @property
    def has_durations(self) -> bool:
        """Whether it is a TDT head; RNNT otherwise."""
        return self.out.shape[1] > len(self.first)


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Of a head."""

    tokens: int
    layers: int
    durations: bool = True


HEADS = {"tdt-1024x1": Size(1024, 1), "tdt-8192x2": Size(8192, 2), "rnnt-1024x1": Size(1024, 1, durations=False)}


def _exact(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)


def make_head(size: Size, seed: int = 3) -> Head:
    """A random head that emits blanks, tokens and all durations."""
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float) -> Array:
        return _exact(random.standard_normal(shape, np.float32) * np.float32(scale))

    bias = normal(4 * HIDDEN, scale=0.7)
    first = _exact(normal(size.tokens + 1, 4 * HIDDEN, scale=0.75) + bias)
    first[-1] = bias
    wide = size.tokens + 1 + (len(DURATIONS) if size.durations else 0)
    head = Head(
        first,
        normal(HIDDEN, 4 * HIDDEN, scale=1.5 / HIDDEN**0.5),
        tuple(
            (normal(2 * HIDDEN, 4 * HIDDEN, scale=1.5 / HIDDEN**0.5), normal(4 * HIDDEN, scale=0.7))
            for _ in range(1, size.layers)
        ),
        normal(HIDDEN, JOINT, scale=3 / HIDDEN**0.5),
        normal(JOINT, wide, scale=2 / JOINT**0.5),
        normal(wide, scale=0.3),
    )
    _calibrate(head, make_frames(8, 60, seed + 1))
    return head


def _calibrate(head: Head, frames: Array) -> None:
    """Set the biases of blank and durations such that both come as often as said above, in decoding itself."""
    rows, count, v = len(frames), frames.shape[1], head.blank + 1
    lengths, base = np.full(rows, count), head.out_bias[v:].copy()
    shift = np.zeros_like(base)
    for round_ in range(6):
        low, high = -4.0, 16.0
        for _ in range(7):
            head.out_bias[head.blank] = _exact(np.array((low + high) / 2))
            decoded = decode(head, frames, lengths)
            emitted = sum(map(len, decoded.tokens)) / (rows * count)
            low, high = ((low + high) / 2, high) if emitted > TOKENS_PER_FRAME else (low, (low + high) / 2)
        if not head.has_durations or round_ == 5:
            break
        spans = np.concatenate(decoded.spans) - shift
        for step in range(300):
            got = np.bincount((spans + shift).argmax(1), minlength=len(base)) / len(spans)
            shift += 0.3 / (1 + step / 50) * (np.array(DURATION_SHARES) - got).astype(np.float32)
        head.out_bias[v:] = _exact(base + shift)
        shift = head.out_bias[v:] - base


def make_frames(rows: int, frames: int, seed: int) -> Array:
    """Projected encoder frames [B, T', J]: noise, smooth over three frames."""
    noise = np.random.default_rng(seed).standard_normal((rows, frames + 2, JOINT), np.float32)
    return _exact((noise[:, :-2] + noise[:, 1:-1] + noise[:, 2:]) / np.float32(3**0.5))


def make_lengths(rows: int, frames: int) -> npt.NDArray[np.int32]:
    """Of the rows; the first is full."""
    lengths = np.random.default_rng(frames).integers(int(frames * SHORTEST_SHARE), frames + 1, rows)
    lengths[0] = frames
    return lengths.astype(np.int32)


# The reference


def _sigmoid(x: Array) -> Array:
    half: Array = 0.5 + 0.5 * np.tanh(0.5 * x)
    return half


def _cell(gates: Array, c: Array) -> tuple[Array, Array]:
    i, f, g, o = np.split(gates, 4, axis=1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(c), c


def predict(head: Head, tokens: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    """The prediction network for one token a row; h and c are [B, L, H]."""
    x, first_c = _cell(head.first[tokens] + h[:, 0] @ head.recurrent, c[:, 0])
    hs, cs = [x], [first_c]
    for layer, (weights, bias) in enumerate(head.deeper, start=1):
        x, layer_c = _cell(np.concatenate([x, h[:, layer]], axis=1) @ weights + bias, c[:, layer])
        hs.append(x)
        cs.append(layer_c)
    return x @ head.project, np.stack(hs, 1), np.stack(cs, 1)


def start(head: Head, rows: int) -> dict[str, Array]:
    """The state before the first frame."""
    zero = np.zeros((rows, head.layers, HIDDEN), np.float32)
    pred, h, c = predict(head, np.full(rows, head.blank), zero, zero)
    column = np.zeros((rows, 1), np.int32)
    return {"time": column, "symbols": column.copy(), "pred": pred, "h": h, "c": c}


@dataclasses.dataclass(slots=True)
class Decoded:
    """What the reference decoded.

    Attributes:
        tokens: For each row (token, frame, duration).
        looks: For each row (frame, whether it was blank, margin of the decision).
        time: Where each row stands at the end, past its length where a duration jumped past it.
        spans: Logits of the durations, turn by turn.
    """

    tokens: list[list[tuple[int, int, int]]]
    looks: list[list[tuple[int, bool, float]]]
    time: Array
    spans: list[Array] = dataclasses.field(default_factory=list)


def _margin(logits: Array) -> Array:
    best = np.partition(logits, -2, axis=1)
    difference: Array = best[:, -1] - best[:, -2]
    return difference


def decode(head: Head, frames: Array, lengths: Array) -> Decoded:
    """Greedy decoding with numpy, by the rules of NeMo's greedy batch decoding."""
    rows, v = len(frames), head.blank + 1
    state = start(head, rows)
    pred, h, c = state["pred"], state["h"], state["c"]
    t, symbols = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    done = Decoded([[] for _ in range(rows)], [[] for _ in range(rows)], t)
    active = np.flatnonzero(t < lengths)
    while len(active):
        logits = np.maximum(frames[active, t[active]] + pred[active], 0) @ head.out + head.out_bias
        tokens, margin = logits[:, :v].argmax(1), _margin(logits[:, :v])
        blank = tokens == head.blank
        if head.has_durations:
            duration = logits[:, v:].argmax(1)
            done.spans.append(logits[:, v:])
            margin = np.minimum(margin, _margin(logits[:, v:]))
        else:
            duration = np.zeros_like(tokens)
        duration = np.where(blank, np.maximum(duration, 1), duration)
        for row, token, is_blank, span, sure in zip(active, tokens, blank, duration, margin, strict=True):
            done.looks[row].append((int(t[row]), bool(is_blank), float(sure)))
            if not is_blank:
                done.tokens[row].append((int(token), int(t[row]), int(span)))
        speaks = active[~blank]
        if len(speaks):
            pred[speaks], h[speaks], c[speaks] = predict(head, tokens[~blank], h[speaks], c[speaks])
        symbols[active] = np.where(duration == 0, symbols[active] + 1, 0)
        forced = symbols[active] >= MAX_SYMBOLS
        symbols[active[forced]] = 0
        t[active] += duration + forced
        active = active[t[active] < lengths[active]]
    return done


def turns_of(looks: Sequence[tuple[int, bool, float]], look: int) -> int:
    """Turns that a row takes when a turn looks at `look` frames, until it is full."""
    turns, begin, tokens = 0, None, 0
    for frame, blank, _ in looks:
        if begin is None or frame >= begin + look:
            turns, begin = turns + 1, frame
        if not blank:
            begin, tokens = None, tokens + 1
        if tokens == CAPACITY:
            break
    return turns


def compare(got: Sequence[Sequence[tuple[int, int, int]]], reference: Decoded, near: float) -> dict[str, Any]:
    """How a form's rows differ from the reference's: equal, otherwise at a near tie, or wrong. Full rows stop there."""
    counts: dict[str, Any] = {"rows": len(got), "full": 0, "near_ties": 0, "wrong": 0, "widest_margin": 0.0}
    counts["tokens"] = sum(map(len, got))
    for row, said in enumerate(got):
        expected = reference.tokens[row][:CAPACITY]
        counts["full"] += len(said) == CAPACITY
        if list(said) == expected:
            continue
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(said, expected, strict=False)))
        # Decisions after the last common token, up to the first that differs.
        after, margins = 0, [np.inf]
        for _, blank, margin in reference.looks[row]:
            if after == same:
                margins.append(margin)
            after += not blank
        least = float(min(margins))
        counts["widest_margin"] = max(counts["widest_margin"], round(least, 4))
        counts["near_ties" if least < near else "wrong"] += 1
    return counts


# The decoder as ONNX

FLOAT, HALF, INT, LONG, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How the decoder of a batch is written.

    Attributes:
        head: Name in `HEADS`.
        precision: FP32 or FP16.
        batch: Rows.
        kind: loop, calls or cpu.
        turns: Of one iteration, or of one call.
        look: Frames that a turn looks at.
        argmax: `topk`: ONNX's ArgMax; `reduce`: the least index whose logit is the maximum.
        level: TensorRT's optimisation level.
    """

    head: str
    precision: str
    batch: int
    kind: str = "loop"
    turns: int = 1
    look: int = 1
    argmax: str = "reduce"
    level: int = 1

    @property
    def name(self) -> str:
        """For files and records."""
        return "_".join(map(str, dataclasses.astuple(self)))


class Graph:
    """Collects nodes; each operation returns the name of its output."""

    def __init__(self, prefix: str, constants: dict[str, Array]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants = constants
        self._prefix = prefix

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """One node."""
        name = f"{self._prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out or name], name=name, **attributes))
        return out or name

    def many(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:  # noqa: ANN401
        """One node with several outputs."""
        name = f"{self._prefix}{kind}_{len(self.nodes)}"
        names = [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def const(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """A constant, kept once by its name."""
        self.constants.setdefault(name, np.array(value, dtype, order="C"))
        return name

    def scalar(self, value: int) -> str:
        """An INT32 scalar."""
        return self.const(f"int_{value}", value, np.int32)

    def columns(self, x: str, count: int) -> list[str]:
        """[B, n] as n times [B, 1]."""
        if count == 1:
            return [x]
        return self.many("Split", x, self.const(f"ones_{count}", np.ones(count), np.int64), outputs=count, axis=1)


State = dict[str, str]
RESULTS = ("tokens", "frames_of", "durations", "logprobs")


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """Names of what was found at frames, each [B, look]: token, duration by the blank rule, whether blank."""

    token: str
    duration: str
    blank: str
    logprob: str


class Writer:
    """Writes the operations of one turn into a graph."""

    def __init__(self, head: Head, form: Form) -> None:
        self.head, self.form = head, form
        self.dtype = np.float32 if form.precision == "FP32" else np.float16
        self.float = FLOAT if form.precision == "FP32" else HALF

    def _weights(self, g: Graph, name: str, value: Array) -> str:
        return g.const(name, value, self.dtype)

    def _argmax(self, g: Graph, logits: str, best: str, axis: int, count: int) -> str:
        if self.form.argmax == "topk":
            return g.op("Cast", g.op("ArgMax", logits, axis=axis, keepdims=1), to=INT)
        index = g.const(f"index_{count}", np.arange(count), np.int32)
        at = g.op("Where", g.op("Equal", logits, best), index, g.scalar(count))
        return g.op("ReduceMin", at, axes=[axis], keepdims=1)

    def joint(self, g: Graph, frames: str, pred: str) -> Looked:
        """What the joint network says of frames."""
        v, look = self.head.blank + 1, self.form.look
        z = g.op("Relu", g.op("Add", frames, pred))
        logits = g.op("MatMul", z, self._weights(g, "joint", self.head.out))
        logits = g.op("Add", logits, self._weights(g, "joint_bias", self.head.out_bias))
        if self.form.precision != "FP32":
            logits = g.op("Cast", logits, to=FLOAT)
        words, spans = logits, None
        if self.head.has_durations:
            sizes = g.const("sizes", [v, len(DURATIONS)], np.int64)
            words, spans = g.many("Split", logits, sizes, outputs=2, axis=-1)
        axis = 1 if look == 1 else 2
        best = g.op("ReduceMax", words, axes=[axis], keepdims=1)
        token = self._argmax(g, words, best, axis, v)
        total = g.op("ReduceSum", g.op("Exp", g.op("Sub", words, best)), g.const("axis", [axis], np.int64), keepdims=1)
        logprob = g.op("Neg", g.op("Log", total))
        blank = g.op("Equal", token, g.const("blank", self.head.blank, np.int32))
        if spans is not None:
            longest = g.op("ReduceMax", spans, axes=[axis], keepdims=1)
            span = self._argmax(g, spans, longest, axis, len(DURATIONS))
            duration = g.op("Where", blank, g.op("Max", span, g.scalar(1)), span)
        else:
            duration = g.op("Where", blank, g.scalar(1), g.scalar(0))
        if look > 1:
            flat = g.const("flat_look", [-1, look], np.int64)
            token, duration, logprob = (g.op("Reshape", x, flat) for x in (token, duration, logprob))
            blank = g.op("Equal", token, "blank")
        return Looked(token, duration, blank, logprob)

    def predict(self, g: Graph, token: str, state: State) -> State:
        """The prediction network for every row."""
        token = g.op("Reshape", token, g.const("flat", [-1], np.int64))
        gates = g.op("Gather", self._weights(g, "first", self.head.first), token, axis=0)
        product = g.op("MatMul", state["h0"], self._weights(g, "recurrent", self.head.recurrent))
        x, c = self._cell(g, g.op("Add", gates, product), state["c0"])
        new = {"h0": x, "c0": c}
        for layer, (weights, bias) in enumerate(self.head.deeper, start=1):
            both = g.op("Concat", x, state[f"h{layer}"], axis=1)
            gates = g.op("MatMul", both, self._weights(g, f"weights{layer}", weights))
            gates = g.op("Add", gates, self._weights(g, f"bias{layer}", bias))
            x, c = self._cell(g, gates, state[f"c{layer}"])
            new |= {f"h{layer}": x, f"c{layer}": c}
        return new | {"pred": g.op("MatMul", x, self._weights(g, "project", self.head.project))}

    def _cell(self, g: Graph, gates: str, c: str) -> tuple[str, str]:
        quarters = g.const("quarters", np.full(4, HIDDEN), np.int64)
        i, f, n, o = g.many("Split", gates, quarters, outputs=4, axis=1)
        kept = g.op("Mul", g.op("Sigmoid", f), c)
        c = g.op("Add", kept, g.op("Mul", g.op("Sigmoid", i), g.op("Tanh", n)))
        return g.op("Mul", g.op("Sigmoid", o), g.op("Tanh", c)), c

    def turn(self, g: Graph, state: State, table: str, base: str, lengths: str) -> State:
        """One turn of every row: the new state, results included."""
        look = self.form.look
        time_, symbols = state["time"], state["symbols"]
        ahead = time_ if look == 1 else g.op("Add", time_, g.const("ahead", np.arange(look)[None], np.int32))
        safe = g.op("Max", g.op("Min", ahead, g.op("Sub", lengths, g.scalar(1))), g.scalar(0))
        at = g.op("Reshape", g.op("Add", base, safe), g.const("flat", [-1], np.int64))
        frames, pred = g.op("Gather", table, at, axis=0), state["pred"]
        if look > 1:
            frames = g.op("Reshape", frames, g.const("frames_look", [-1, look, JOINT], np.int64))
            pred = g.op("Unsqueeze", pred, g.const("axis_1", [1], np.int64))
        looked = self.joint(g, frames, pred)
        room = g.op("Less", state["count"], g.scalar(CAPACITY))
        active = g.op("And", g.op("Less", time_, lengths), room)
        if look == 1:
            emits = g.op("And", active, g.op("Not", looked.blank))
            passed = time_
        else:
            emits, passed, looked = self._skip_blanks(g, active, time_, lengths, looked)
            symbols = g.op("Where", g.op("Equal", passed, time_), symbols, g.scalar(0))
        token, duration = looked.token, looked.duration
        # Symbols on this frame: MAX_SYMBOLS of them move on.
        moves = duration if look == 1 else g.op("Where", emits, duration, g.scalar(0))
        stays = g.op("Equal", duration, g.scalar(0))
        count = g.op("Where", stays, g.op("Add", symbols, g.scalar(1)), g.scalar(0))
        forced = g.op("Not", g.op("Less", count, g.scalar(MAX_SYMBOLS)))
        count = g.op("Where", forced, g.scalar(0), count)
        if look > 1:
            forced = g.op("And", forced, emits)
            count = g.op("Where", emits, count, symbols)
        moved = g.op("Add", g.op("Add", passed, moves), g.op("Cast", forced, to=INT))
        new = {
            "time": g.op("Where", active, moved, time_),
            "symbols": g.op("Where", active, count, state["symbols"]),
        }
        fresh = self.predict(g, token, state)
        new |= {name: g.op("Where", emits, value, state[name]) for name, value in fresh.items()}
        # Results: the row's next free column.
        place = g.op("Equal", state["count"], g.const("places", np.arange(CAPACITY)[None], np.int32))
        place = g.op("And", place, emits)
        for name, value in zip(RESULTS, (token, passed, duration, looked.logprob), strict=True):
            new[name] = g.op("Where", place, value, state[name])
        new["count"] = g.op("Add", state["count"], g.op("Cast", emits, to=INT))
        return new

    def _skip_blanks(self, g: Graph, active: str, time_: str, lengths: str, looked: Looked) -> tuple[str, str, Looked]:
        """Follow the row's blanks through the frames looked at, to its first token or past them.

        Returns:
            Whether the row emits a token, the frame where it is then, and that token.
        """
        look = self.form.look
        blank = g.op("Cast", looked.blank, to=INT)
        parts = [g.columns(x, look) for x in (looked.token, looked.duration, blank, looked.logprob)]
        cursor, emits = g.op("Sub", time_, time_), ""
        token = duration = logprob = ""
        for offset, (token_, duration_, blank_, logprob_) in enumerate(zip(*parts, strict=True)):
            inside = g.op("Less", g.op("Add", time_, g.scalar(offset)), lengths)
            here = g.op("And", g.op("And", g.op("Equal", cursor, g.scalar(offset)), inside), active)
            is_blank = g.op("Equal", blank_, g.scalar(1))
            cursor = g.op("Where", g.op("And", here, is_blank), g.op("Add", cursor, duration_), cursor)
            says = g.op("And", here, g.op("Not", is_blank))
            if emits:
                token = g.op("Where", says, token_, token)
                duration = g.op("Where", says, duration_, duration)
                logprob = g.op("Where", says, logprob_, logprob)
                emits = g.op("Or", emits, says)
            else:
                emits, token, duration, logprob = says, token_, duration_, logprob_
        return emits, g.op("Add", time_, cursor), Looked(token, duration, looked.blank, logprob)

    def unfinished(self, g: Graph, state: State, lengths: str) -> str:
        """INT32 scalar: whether some row has frames left and room."""
        left = g.op("Less", state["time"], lengths)
        left = g.op("And", left, g.op("Less", state["count"], g.scalar(CAPACITY)))
        return g.op("ReduceMax", g.op("Cast", left, to=INT), keepdims=0)


def shapes_of(head: Head, form: Form) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type and shape of each state tensor."""
    batch, number = form.batch, FLOAT if form.precision == "FP32" else HALF
    layers = [f"{kind}{layer}" for kind in "hc" for layer in range(head.layers)]
    return (
        {"time": (INT, (batch, 1)), "symbols": (INT, (batch, 1)), "pred": (number, (batch, JOINT))}
        | dict.fromkeys(layers, (number, (batch, HIDDEN)))
        | {"count": (INT, (batch, 1))}
        | {name: (FLOAT if name == "logprobs" else INT, (batch, CAPACITY)) for name in RESULTS}
    )


def decoder_model(head: Head, form: Form) -> onnx.ModelProto:
    """The decoder of one batch: states in and out, frames [B, T', J]."""
    writer, g = Writer(head, form), Graph("", {})
    shapes = shapes_of(head, form)

    def values(prefix: str, names: Iterable[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(prefix + name, *shapes[name]) for name in names]

    inputs = [
        helper.make_tensor_value_info("frames", writer.float, [form.batch, "steps", JOINT]),
        helper.make_tensor_value_info("lengths", INT, [form.batch, 1]),
    ]
    table = g.op("Reshape", "frames", g.const("flat_table", [-1, JOINT], np.int64))
    steps = g.op("Gather", g.op("Shape", "frames"), g.const("axis_of_steps", [1], np.int64), axis=0)
    rows = g.const("rows", np.arange(form.batch)[:, None], np.int32)
    base = g.op("Mul", rows, g.op("Cast", steps, to=INT))
    if form.kind == "loop":
        given = [name for name in shapes if name not in {*RESULTS, "count"}]
        state = {name: name for name in given} | {"count": g.op("Sub", "time", "time")}
        for name in RESULTS:
            state[name] = g.const(
                f"no_{name}", np.full((form.batch, CAPACITY), -1), np.float32 if name == "logprobs" else np.int32
            )
        body = Graph("body_", g.constants)
        inner = {name: f"in_{name}" for name in shapes}
        for _ in range(form.turns):
            inner = writer.turn(body, inner, table, base, "lengths")
        goes_on = body.op("Cast", writer.unfinished(body, inner, "lengths"), to=BOOL)
        for name in shapes:
            body.op("Identity", inner[name], out=f"out_{name}")
        graph = helper.make_graph(
            body.nodes,
            "body",
            [
                helper.make_tensor_value_info("iteration", LONG, []),
                helper.make_tensor_value_info("goes_in", BOOL, []),
                *values("in_", shapes),
            ],
            [helper.make_tensor_value_info(goes_on, BOOL, []), *values("out_", shapes)],
        )
        begins = g.op("Cast", writer.unfinished(g, state, "lengths"), to=BOOL)
        most = g.op("Mul", steps, g.const("max_symbols", MAX_SYMBOLS, np.int64))
        most = g.op("Reshape", most, g.const("scalar", np.zeros(0), np.int64))
        last = g.many("Loop", most, begins, *state.values(), outputs=len(shapes), body=graph)
        state = dict(zip(shapes, last, strict=True))
    else:
        given = list(shapes)
        state = {name: name for name in given}
        for turn in range(form.turns):
            step = Graph(f"turn{turn}_", g.constants)
            state = writer.turn(step, state, table, base, "lengths")
            g.nodes.extend(step.nodes)
    for name in shapes:
        g.op("Identity", state[name], out=f"next_{name}")
    flag = writer.unfinished(g, state, "lengths")
    g.op("Reshape", flag, g.const("one_element", [1], np.int64), out="unfinished")
    return _model(
        g,
        [*inputs, *values("", given)],
        [*values("next_", shapes), helper.make_tensor_value_info("unfinished", INT, [1])],
    )


def _compact_turn(writer: Writer, g: Graph, state: State, table: str, base: str) -> tuple[State, str, str]:
    """A turn of the rows that need it: state, [B, 3] of token or -1, frame and duration, log-probabilities."""
    flat, last_axis = g.const("flat", [-1], np.int64), g.const("axis_1", [1], np.int64)
    active = g.op("Reshape", g.op("NonZero", g.op("Reshape", g.op("Less", state["time"], "lengths"), flat)), flat)
    time_, symbols = (g.op("Gather", state[name], active, axis=0) for name in ("time", "symbols"))
    at = g.op("Reshape", g.op("Add", g.op("Gather", base, active, axis=0), time_), flat)
    looked = writer.joint(g, g.op("Gather", table, at, axis=0), g.op("Gather", state["pred"], active, axis=0))
    stays = g.op("Equal", looked.duration, g.scalar(0))
    count = g.op("Where", stays, g.op("Add", symbols, g.scalar(1)), g.scalar(0))
    forced = g.op("Not", g.op("Less", count, g.scalar(MAX_SYMBOLS)))
    count = g.op("Where", forced, g.scalar(0), count)
    moved = g.op("Add", g.op("Add", time_, looked.duration), g.op("Cast", forced, to=INT))
    where = g.op("Unsqueeze", active, last_axis)
    new = {
        "time": g.op("ScatterND", state["time"], where, moved),
        "symbols": g.op("ScatterND", state["symbols"], where, count),
    }
    emits = g.op("Reshape", g.op("Not", looked.blank), flat)
    emitters, token = g.op("Compress", active, emits, axis=0), g.op("Compress", looked.token, emits, axis=0)
    to = g.op("Unsqueeze", emitters, last_axis)
    names = [name for name in state if name not in new]
    fresh = writer.predict(g, token, {name: g.op("Gather", state[name], emitters, axis=0) for name in names})
    new |= {name: g.op("ScatterND", state[name], to, fresh[name]) for name in names}
    results = g.op("Concat", token, *(g.op("Compress", x, emits, axis=0) for x in (time_, looked.duration)), axis=1)
    shape = g.op("Shape", g.op("Concat", *[state["time"]] * 3, axis=1))
    nothing = g.op("Expand", g.const("nothing", np.full((1, 3), -1), np.int32), shape)
    zeros = g.op("Cast", g.op("Mul", state["time"], g.scalar(0)), to=FLOAT)
    return new, g.op("ScatterND", nothing, to, results), g.op("ScatterND", zeros, where, looked.logprob)


def cpu_model(head: Head) -> onnx.ModelProto:
    """The decoder for ONNX Runtime: the joint network for rows that are not done, the prediction network for emitters.

    Batches of any size. `said` is [turns, B, 3]: token or -1, frame and duration.
    """
    writer, g = Writer(head, Form("", "FP32", 0, "cpu", argmax="topk")), Graph("", {})
    names = ["time", "symbols", "pred", *(f"{kind}{layer}" for kind in "hc" for layer in range(head.layers))]
    widths = {"time": 1, "symbols": 1, "pred": JOINT}

    def values(prefix: str) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                prefix + name, INT if name in {"time", "symbols"} else FLOAT, ["batch", widths.get(name, HIDDEN)]
            )
            for name in names
        ]

    table = g.op("Reshape", "frames", g.const("flat_table", [-1, JOINT], np.int64))
    shape = g.op("Shape", "frames")
    steps = g.op("Gather", shape, g.const("axis_of_steps", [1], np.int64), axis=0)
    batch = g.op("Gather", shape, g.const("axis_of_batch", 0, np.int64), axis=0)
    rows = g.op("Range", g.const("long_0", 0, np.int64), batch, g.const("long_1", 1, np.int64))
    base = g.op("Unsqueeze", g.op("Mul", rows, steps), g.const("axis_1", [1], np.int64))
    base = g.op("Cast", base, to=INT)
    b = Graph("body_", g.constants)
    new, spoken, logprobs = _compact_turn(writer, b, {name: f"in_{name}" for name in names}, table, base)
    left = b.op("Cast", b.op("Less", new["time"], "lengths"), to=INT)
    goes_on = b.op("Cast", b.op("ReduceMax", left, keepdims=0), to=BOOL)
    for name in names:
        b.op("Identity", new[name], out=f"out_{name}")
    more = [("said", INT, ["batch", 3], spoken), ("logprobs", FLOAT, ["batch", 1], logprobs)]
    body = helper.make_graph(
        b.nodes,
        "body",
        [
            helper.make_tensor_value_info("iteration", LONG, []),
            helper.make_tensor_value_info("goes_in", BOOL, []),
            *values("in_"),
        ],
        [
            helper.make_tensor_value_info(goes_on, BOOL, []),
            *values("out_"),
            *(helper.make_tensor_value_info(node, kind, size) for _, kind, size, node in more),
        ],
    )
    most = g.op("Mul", steps, g.const("max_symbols", MAX_SYMBOLS, np.int64))
    most = g.op("Reshape", most, g.const("scalar", np.zeros(0), np.int64))
    ends = g.many("Loop", most, g.const("true", True, np.bool_), *names, outputs=len(names) + 2, body=body)
    for name, value in zip([*(f"next_{name}" for name in names), "said", "logprobs"], ends, strict=True):
        g.op("Identity", value, out=name)
    inputs = [
        helper.make_tensor_value_info("frames", FLOAT, ["batch", "steps", JOINT]),
        helper.make_tensor_value_info("lengths", INT, ["batch", 1]),
    ]
    outputs = [helper.make_tensor_value_info(name, kind, ["turns", *size]) for name, kind, size, _ in more]
    return _model(g, [*inputs, *values("")], [*values("next_"), *outputs])


def _model(g: Graph, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(value, name) for name, value in g.constants.items()]
    graph = helper.make_graph(g.nodes, "decoder", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


# Running

Add = Callable[..., None]
"""Writes down one case: its form and its figures."""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Frames and what the reference decodes from them; smaller batches are its first rows."""

    frames: Array
    lengths: npt.NDArray[np.int32]
    reference: Decoded

    def feed(self, head: Head, form: Form) -> dict[str, Array]:
        """Inputs of the form's model at the start."""
        rows, number = form.batch, np.float32 if form.precision == "FP32" else np.float16
        state = start(head, rows)
        feed = {name: state[name] for name in ("time", "symbols")} | {"pred": state["pred"].astype(number)}
        for kind in "hc":
            feed |= {f"{kind}{layer}": state[kind][:, layer].astype(number) for layer in range(head.layers)}
        if form.kind == "calls":
            feed |= {"count": np.zeros((rows, 1), np.int32)}
            for name in RESULTS:
                feed[name] = np.full((rows, CAPACITY), -1, np.float32 if name == "logprobs" else np.int32)
        return {"frames": self.frames[:rows].astype(number), "lengths": self.lengths[:rows, None]} | feed

    def turns(self, rows: int, look: int) -> int:
        """Of a batch of so many rows."""
        return max(turns_of(self.reference.looks[row], look) for row in range(rows))


def said(results: dict[str, Array]) -> list[list[tuple[int, int, int]]]:
    """Token, frame and duration of each row, from a form's outputs."""
    columns = zip(results["next_count"][:, 0], *(results[f"next_{name}"] for name in RESULTS[:3]), strict=True)
    return [list(zip(*(x[:count].tolist() for x in (t, f, d)), strict=True)) for count, t, f, d in columns]


def run_on_cpu(model: onnx.ModelProto, feed: dict[str, Array]) -> dict[str, Array]:
    """One execution by ONNX Runtime on the CPU."""
    import onnxruntime  # noqa: PLC0415 (heavy)

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def run_calls(once: Callable[[dict[str, Array]], dict[str, Array]], feed: dict[str, Array]) -> dict[str, Array]:
    """Call a plan of a few turns until every row is done."""
    while True:
        results = once(feed)
        if not results["unfinished"][0]:
            return results
        feed |= {name: results[f"next_{name}"] for name in feed if f"next_{name}" in results}


def _decode_shares(
    session: Any,  # noqa: ANN401 (no types)
    names: list[str],
    feeds: list[dict[str, Array]],
    pool: ThreadPoolExecutor,
) -> list[Any]:
    return list(pool.map(partial(session.run, names), feeds))


def measure_cpu(name: str, work: Work, seconds: int, head: Head, add: Add) -> None:
    """ONNX Runtime on all cores: workers with one or more threads each; rows are dealt out by length."""
    import onnxruntime  # noqa: PLC0415 (heavy)

    content, cores = cpu_model(head).SerializeToString(), os.cpu_count() or 1
    for threads in sorted({1, min(4, cores), cores}):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        workers = cores // threads
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        with ThreadPoolExecutor(workers) as pool:
            for batch in (batch for batch in BATCHES if batch <= min(128, len(work.lengths))):
                form = Form(name, "FP32", batch, "cpu")
                feed = work.feed(head, form)
                order = np.argsort(-work.lengths[:batch], kind="stable")
                shares = [order[share::workers] for share in range(min(workers, batch))]
                feeds = [{key: np.ascontiguousarray(value[rows]) for key, value in feed.items()} for rows in shares]

                decode_all = partial(_decode_shares, session, names, feeds, pool)
                found: list[list[tuple[int, int, int]]] = [[] for _ in range(batch)]
                for rows, outputs in zip(shares, decode_all(), strict=True):
                    turns = dict(zip(names, outputs, strict=True))["said"]
                    for row, column in zip(rows, turns.transpose(1, 0, 2), strict=True):
                        found[row] = [tuple(looked) for looked in column.tolist() if looked[0] >= 0][:CAPACITY]
                same = compare(found, work.reference, NEAR_TIE["FP32"])
                spent = milliseconds(decode_all, repeats=3)
                counts = {"cores": cores, "workers": workers, "threads": threads}
                add(form, seconds=seconds, **counts, equality=same, **figures(work, form, seconds, spent))


class UrgentStream(cuda.Stream):
    """A stream of a higher priority than the other streams."""

    def __init__(self) -> None:
        from cuda.bindings import runtime  # noqa: PLC0415 (only where a GPU is)

        self._stream = _checked(runtime.cudaStreamCreateWithPriority(runtime.cudaStreamNonBlocking, -5))
        self.handle = int(self._stream)


def _checked(results: Any) -> Any:  # noqa: ANN401 (the bindings have no types)
    if int(results[0]):
        raise GpuError(f"CUDA answered {results[0]}")
    return results[1] if len(results) > 1 else None


class HostLoop:
    """A plan of a few turns, started by the host until every row is done.

    The state goes from one set of buffers to the other and back. A CUDA graph of several calls ends with a copy of the
    flag to the host. `ahead` graphs wait in the stream while the host looks at the flag of the oldest.
    """

    def __init__(self, plan: tensorrt.Plan, feed: dict[str, Array]) -> None:
        from cuda.bindings import runtime  # noqa: PLC0415 (only where a GPU is)

        self._cuda, self._plan, self._feed = runtime, plan, feed
        self.stream = UrgentStream()
        self._fixed = {name: cuda.Buffer(feed[name].nbytes) for name in ("frames", "lengths")}
        self._names = [name for name in plan.inputs if name not in self._fixed]
        self._states = [{name: cuda.Buffer(feed[name].nbytes) for name in self._names} for _ in range(3)]
        self._flag = cuda.Buffer(4)
        self._contexts = [self.context(0, 1), self.context(1, 0)]
        self._events = [_checked(runtime.cudaEventCreateWithFlags(runtime.cudaEventDisableTiming)) for _ in range(4)]
        for name, buffer in [*self._fixed.items(), *self._states[2].items()]:
            buffer.host(feed[name].shape, feed[name].dtype)[...] = feed[name]
            buffer.upload(buffer.size, self.stream)
        self.reset()
        for context in self._contexts:  # sets things up that cannot be captured
            context.execute_async_v3(self.stream.handle)
        self.stream.wait()

    def context(self, source: int, target: int) -> Any:  # noqa: ANN401
        """One that reads a set of buffers and writes another."""
        context = self._plan.engine.create_execution_context()
        for name in self._plan.inputs:
            context.set_input_shape(name, self._feed[name].shape)
            buffer = self._fixed.get(name) or self._states[source][name]
            context.set_tensor_address(name, buffer.device)
        for name in self._names:
            context.set_tensor_address(f"next_{name}", self._states[target][name].device)
        context.set_tensor_address("unfinished", self._flag.device)
        return context

    def reset(self) -> None:
        """Put the start state in place."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for name in self._names:
            to, source = self._states[0][name], self._states[2][name]
            _checked(self._cuda.cudaMemcpyAsync(to.device, source.device, to.size, kind, self.stream.handle))

    def calls(self, count: int) -> None:
        """Start an even number of calls and the copy of the flag."""
        for index in range(count):
            if not self._contexts[index % 2].execute_async_v3(self.stream.handle):
                raise GpuError("TensorRT cannot start the plan")
        self._flag.download(4, self.stream)

    def run(self, go: Callable[[], None], ahead: int) -> int:
        """A whole batch; how often `go` was started."""
        self.reset()
        flag, started, waited = self._flag.host((1,), np.int32), 0, 0
        while True:
            while started <= waited + ahead:
                go()
                event = self._events[started % len(self._events)]
                _checked(self._cuda.cudaEventRecord(event, self.stream.handle))
                started += 1
            _checked(self._cuda.cudaEventSynchronize(self._events[waited % len(self._events)]))
            waited += 1
            if not flag[0]:
                self.stream.wait()
                return started

    def results(self) -> dict[str, Array]:
        """The state after `run`."""
        found = {}
        for name in ("count", *RESULTS):
            buffer = self._states[0][name]
            buffer.download(buffer.size, self.stream)
            found[f"next_{name}"] = buffer.host(self._feed[name].shape, self._feed[name].dtype)
        self.stream.wait()
        return {name: value.copy() for name, value in found.items()}

    def free(self) -> None:
        """Give the memory back."""
        self._contexts.clear()
        for buffers in (self._fixed, *self._states, {"flag": self._flag}):
            for buffer in buffers.values():
                buffer.free()


def milliseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median by the host's clock; `work` waits for the GPU itself."""
    work()
    spent = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begin)
    return float(np.median(spent)) * 1e3


def profile_of(head: Head, form: Form) -> dict[str, tensorrt.ShapeRange]:
    """Frames of 2 to 30 s; the rest is of one shape."""
    shapes = {name: shape for name, (_, shape) in shapes_of(head, form).items()}
    if form.kind == "loop":
        shapes = {name: shape for name, shape in shapes.items() if name not in {*RESULTS, "count"}}
    fixed = {name: (shape,) * 3 for name, shape in (shapes | {"lengths": (form.batch, 1)}).items()}
    low, middle, high = ((form.batch, count, JOINT) for count in FRAMES.values())
    return {"frames": (low, middle, high), **fixed}


_heads: dict[str, Head] = {}


def head_named(name: str, folder: Path) -> Head:
    """From the folder, where `prepare` has put it."""
    if name not in _heads:
        with np.load(folder / f"{name}.npz") as file:
            deeper = tuple((file[f"weights{k}"], file[f"bias{k}"]) for k in range(1, int(file["layers"])))
            _heads[name] = Head(
                file["first"], file["recurrent"], deeper, file["project"], file["out"], file["out_bias"]
            )
    return _heads[name]


def prepare(name: str, seconds: Sequence[int], rows: int, folder: Path) -> dict[int, Work]:
    """Make a head and what the reference decodes with it."""
    head = make_head(HEADS[name])
    deeper = {f"weights{k}": weights for k, (weights, _) in enumerate(head.deeper, start=1)}
    deeper |= {f"bias{k}": bias for k, (_, bias) in enumerate(head.deeper, start=1)}
    tables = {"first": head.first, "recurrent": head.recurrent, "project": head.project, "out": head.out}
    np.savez(folder / f"{name}.npz", out_bias=head.out_bias, layers=head.layers, **tables, **deeper)
    works = {}
    for length in seconds:
        frames, lengths = make_frames(rows, FRAMES[length], length), make_lengths(rows, FRAMES[length])
        reference = decode(head, frames, lengths)
        reference.spans.clear()
        works[length] = Work(frames, lengths, reference)
    return works


def build(form: Form, folder: Path, library: str) -> tuple[Form, float | None, str]:
    """Build one plan into the folder: its seconds, or why not."""
    model, head = folder / f"{form.name}.onnx", head_named(form.head, folder)
    onnx.save(decoder_model(head, form), model)
    try:
        built = tensorrt.build(
            model,
            [profile_of(head, form)],
            limits=tensorrt.Limits(optimization_level=form.level, seconds=300),
            timing_cache=b"",
            task=NullTask(),
            library=library,
            compute_capability=(8, 9) if library == "tensorrt_rtx" else None,
        )
    except BuilderError as error:
        return form, None, str(error)
    finally:
        model.unlink()
    (folder / f"{form.name}.plan").write_bytes(built.plan)
    return form, round(built.seconds, 1), ""


def figures(work: Work, form: Form, seconds: int, spent: float) -> dict[str, Any]:
    """Of one batch in `spent` milliseconds."""
    turns, padded = work.turns(form.batch, form.look), form.batch * seconds
    return {
        "ms": round(spent, 3),
        "turns": turns,
        "us_a_turn": round(1e3 * spent / turns, 2),
        "audio_seconds_a_second": round(1e3 * padded / spent),
        "valid_audio_seconds_a_second": round(1e3 * float(work.lengths[: form.batch].sum()) * FRAME_SECONDS / spent),
        "share_beside_encoder": round(spent / (spent + 1e3 * padded / ENCODER_RATE), 3),
    }


def kernels_of(loop: HostLoop) -> dict[str, Any]:
    """What TensorRT says that one call consists of, by its own profiler."""
    trt: Any = importlib.import_module("tensorrt")  # only where a GPU is

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Sums up."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.spent: dict[str, float] = {}

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            self.spent[name] = self.spent.get(name, 0.0) + milliseconds

    context, profiler = loop.context(0, 1), Profiler()
    context.profiler = profiler
    repeats = 20
    for _ in range(repeats):
        context.execute_async_v3(loop.stream.handle)
        loop.stream.wait()
    slowest = sorted(profiler.spent.items(), key=lambda pair: -pair[1])
    return {
        "kernels": len(slowest),
        "us": round(1e3 * sum(profiler.spent.values()) / repeats, 1),
        "slowest_us": {name[:120]: round(1e3 * spent / repeats, 2) for name, spent in slowest[:14]},
    }


def measure_loop(form: Form, plan: tensorrt.Plan, works: dict[int, Work], head: Head, add: Add) -> None:
    """A plan that loops by itself."""
    with plan.execution(0) as execution:
        for seconds, work in works.items():
            feed = work.feed(head, form)
            same = compare(said(execution.run(feed)), work.reference, NEAR_TIE[form.precision])
            spent = execution.time(feed, repeats=REPEATS)
            add(form, seconds=seconds, graph=False, equality=same, **figures(work, form, seconds, spent))


def capture_loop(form: Form, plan: tensorrt.Plan, work: Work, head: Head, add: Add) -> None:
    """Whether TensorRT's loop can be captured as a CUDA graph."""
    feed = work.feed(head, form)
    with plan.execution(0) as execution:
        execution.run(feed)
        try:
            execution.capture({name: array.shape for name, array in feed.items()})
            same = compare(said(execution.run(feed)), work.reference, NEAR_TIE[form.precision])
            spent = execution.time(feed, repeats=REPEATS)
        except BuilderError as error:
            add(form, seconds=15, graph=True, error=str(error))
        else:
            add(form, seconds=15, graph=True, equality=same, **figures(work, form, 15, spent))


TURNS_A_GRAPH = (2, 4, 8, 16, 32)


def measure_calls(form: Form, plan: tensorrt.Plan, works: dict[int, Work], head: Head, add: Add) -> None:
    """A plan of a few turns in a host loop, with and without CUDA graphs."""
    for seconds, work in works.items():
        loop = HostLoop(plan, work.feed(head, form))
        usual = seconds == USUAL
        for turns in TURNS_A_GRAPH if usual else (8, 32):
            calls = max(2, turns // form.turns)
            graph = loop.stream.capture(partial(loop.calls, calls))
            for ahead in (0, 1) if turns <= 4 else (0,):
                decode_batch = partial(loop.run, graph.launch, ahead)
                started = decode_batch()
                same = compare(said(loop.results()), work.reference, NEAR_TIE[form.precision])
                spent = figures(work, form, seconds, milliseconds(decode_batch))
                how = {"turns_a_graph": calls * form.turns, "ahead": ahead, "started": started}
                add(form, seconds=seconds, graph=True, **how, equality=same, **spent)
            graph.free()
        if usual:
            decode_batch = partial(loop.run, partial(loop.calls, max(2, 8 // form.turns)), 0)
            spent = figures(work, form, seconds, milliseconds(decode_batch))
            add(form, seconds=seconds, graph=False, kernels=kernels_of(loop), **spent)
        loop.free()


class Encoder:
    """A stand-in for the 115M encoder: its products, attention and norms, of random weights, in FP16, by torch.

    Only its load on the GPU matters here: how decoding of one batch and encoding of the next share it.
    """

    WIDTH, HEADS = 512, 8

    def __init__(self, rows: int, frames: int) -> None:
        torch: Any = importlib.import_module("torch")  # heavy
        self._torch, self._stream = torch, torch.cuda.Stream()
        shapes = [(2048, 512), (512, 2048), (1536, 512), (512, 512), (1024, 512), (512, 512), (2048, 512), (512, 2048)]
        self._weights = [torch.randn(shape, device="cuda", dtype=torch.half) * 0.04 for shape in shapes]
        self._x = torch.randn(rows, frames, self.WIDTH, device="cuda", dtype=torch.half)
        self._layers = 18
        self._capture()
        # As many layers as take the time of the real one.
        aim = 1e3 * rows * frames * FRAME_SECONDS / ENCODER_RATE
        self._layers = round(self._layers * aim / milliseconds(self.run))
        self._capture()

    def _capture(self) -> None:
        torch: Any = self._torch
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(3):
                self._forward()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph, stream=self._stream):
            self._out = self._forward()

    def _forward(self) -> Any:  # noqa: ANN401
        functional = self._torch.nn.functional
        up, down, qkv, out, gate, point, up2, down2 = self._weights
        linear = functional.linear
        norm = partial(functional.layer_norm, normalized_shape=(self.WIDTH,))
        x = self._x
        for _ in range(self._layers):
            x = x + linear(functional.silu(linear(norm(x), up)), down)
            heads = linear(norm(x), qkv).unflatten(-1, (3, self.HEADS, -1)).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*heads)
            x = x + linear(mixed.transpose(1, 2).flatten(2), out)
            x = x + linear(functional.silu(functional.glu(linear(norm(x), gate))), point)
            x = norm(x + linear(functional.silu(linear(norm(x), up2)), down2))
        return x

    def run(self) -> None:
        """One batch, waited for."""
        with self._torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()


def measure_overlap(
    form: Form, decoders: Sequence[Callable[[], object]], encoder: Encoder, encoded_rows: int, add: Add
) -> None:
    """Batches through a stand-in encoder, and through one or more decoders beside it, each by its own thread.

    A decoder takes the rows of one or more batches of the encoder at once. All encode and decode the same rows in all.
    """
    batches = 48
    each = batches * encoded_rows // form.batch // len(decoders)

    def many(work: Callable[[], object], count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            work()
        return 1e3 * (time.perf_counter() - begin) / count

    with ThreadPoolExecutor(1 + len(decoders)) as pool:
        many(encoder.run, batches)
        alone = many(encoder.run, batches)
        decode_alone = many(decoders[0], each)
        begin = time.perf_counter()
        futures = [pool.submit(many, encoder.run, batches), *(pool.submit(many, work, each) for work in decoders)]
        both = [future.result() for future in futures]
        whole = 1e3 * (time.perf_counter() - begin) / batches
    add(
        form,
        overlap=f"{encoded_rows} rows encoded, {form.batch} decoded at once",
        decoders=len(decoders),
        encoder_alone_ms=round(alone, 2),
        decoder_alone_ms=round(decode_alone, 2),
        encoder_beside_ms=round(both[0], 2),
        decoder_beside_ms=round(float(np.mean(both[1:])), 2),
        pair_ms=round(whole, 2),
        throughput_beside_encoder_alone=round(alone / whole, 3),
    )


ENCODED_ROWS = 64


def overlap(form: Form, plan: tensorrt.Plan, feed: dict[str, Array], encoder: Encoder, add: Add) -> None:
    """How decoding of one batch and encoding of the next share the GPU."""
    if form.kind == "calls":
        loops = [HostLoop(plan, feed) for _ in range(2)]
        graphs = [loop.stream.capture(partial(loop.calls, max(2, 8 // form.turns))) for loop in loops]
        decoders = [partial(loop.run, graph.launch, 0) for loop, graph in zip(loops, graphs, strict=True)]
        for count in (1, 2):
            measure_overlap(form, decoders[:count], encoder, ENCODED_ROWS, add)
        for loop, graph in zip(loops, graphs, strict=True):
            graph.free()
            loop.free()
        return
    executions = [plan.execution(0) for _ in range(3)]
    shapes = {name: array.shape for name, array in feed.items()}

    def once(execution: tensorrt.Execution) -> None:
        execution._start(shapes)
        execution._stream.wait()

    for execution in executions:
        execution._stream = UrgentStream()
        execution.run(feed)
    for count in (1, 2, 3):
        measure_overlap(
            form, [partial(once, execution) for execution in executions[:count]], encoder, ENCODED_ROWS, add
        )
    for execution in executions:
        execution.__exit__()


def is_overlapped(form: Form) -> bool:
    """Whether the form is measured beside an encoder."""
    plain = (form.precision, form.look, form.argmax, form.level) == ("FP16", 1, "reduce", 1)
    return plain and form.batch >= ENCODED_ROWS and (form.kind == "calls" or form.turns == 4)


def sweep(small: bool) -> list[Form]:
    """What is measured: everything around one choice, not every combination."""
    heads = list(HEADS)
    if small:
        kinds = (("loop", 1, 1), ("loop", 2, 1), ("calls", 2, 1), ("calls", 1, 4))
        return [Form(head, p, 4, *kind) for head in heads for p in NEAR_TIE for kind in kinds]
    forms = []
    for head in heads[:2]:
        loops = [(b, p, u) for p in ("FP16", "FP32") for b in BATCHES for u in (1, 2, 4)]
        forms += [Form(head, p, b, "loop", u) for b, p, u in loops if p == "FP16" or b <= 128]
        forms += [Form(head, p, b, "calls", 1) for p in ("FP16", "FP32") for b in BATCHES if p == "FP16" or b <= 128]
        forms += [Form(head, "FP16", b, "loop", 8) for b in (128, 1)]
        forms += [Form(head, "FP16", b, "loop", 4) for b in (8, 4, 2)]
        forms += [Form(head, "FP16", b, "calls", 1, 4) for b in (128, 1)]
        forms += [Form(head, "FP16", 128, "loop", 1, 4), Form(head, "FP16", 128, "calls", 8)]
        forms += [Form(head, "FP16", 128, "calls", 1, argmax="topk")]
        forms += [Form(head, "FP16", 128, kind, turns, level=3) for kind, turns in (("calls", 1), ("loop", 4))]
    looks = (1, 4, 8)
    forms += [Form(heads[2], "FP16", b, "loop", 1, look) for b in (128, 16, 1) for look in looks]
    forms += [Form(heads[2], "FP16", b, "calls", 1, look) for b in (128, 1) for look in looks]
    forms += [Form(heads[2], "FP16", 128, "loop", 4)]
    return forms


def _label(record: dict[str, Any]) -> str | None:
    """Which line of the plot a case belongs to."""
    if record["kind"] == "cpu":
        return f"ONNX Runtime, {record['cores']} cores, FP32"
    if record["precision"] != "FP16" or record["look"] > 1 or record["argmax"] != "reduce" or record["level"] != 1:
        return None
    if record["kind"] == "loop":
        return {1: "TensorRT's Loop, 1 turn", 4: "TensorRT's Loop, 4 turns"}.get(record["turns_form"])
    return "host loop, CUDA graphs" if record["graph"] and record["turns_form"] == 1 else None


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Milliseconds of a batch of 15 s by rows, for each form in FP16."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 (heavy)
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {"tdt-1024x1": "TDT, 1,024 tokens, 1 LSTM layer", "tdt-8192x2": "TDT, 8,192 tokens, 2 LSTM layers"}
    for axes, (head, title) in zip(figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True):
        lines: dict[str, dict[int, float]] = {}
        for record in records:
            chosen = record["head"] == head and record.get("seconds") == USUAL and record["batch"] in BATCHES
            label = _label(record) if chosen and "ms" in record else None
            if label:
                points = lines.setdefault(label, {})
                points[record["batch"]] = min(record["ms"], points.get(record["batch"], np.inf))
        for label, points in sorted(lines.items()):
            axes.plot(sorted(points), [points[batch] for batch in sorted(points)], marker="o", label=label)
        batches = list(reversed(BATCHES))
        encoder = [1e3 * USUAL * batch / ENCODER_RATE for batch in batches]
        axes.plot(batches, encoder, "k--", label=f"115M encoder, {ENCODER_RATE:,} s/s")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_title(title)
        axes.set_xlabel(f"rows of {USUAL} s")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("milliseconds to decode a batch, FP16")
    figure.savefig(path, dpi=110)


class Report:
    """The cases measured so far, in a file after each."""

    def __init__(self, path: Path, machine: dict[str, Any], *, append: bool) -> None:
        self.records: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if append else []
        self._path, self._machine, self._begun = path, machine, time.monotonic()

    def note(self, text: str) -> None:
        """Print a line."""
        typer.echo(f"{time.monotonic() - self._begun:6.1f} s  {text}")

    def add(self, form: Form, **more: Any) -> None:  # noqa: ANN401
        """Write down one case."""
        facts = dataclasses.asdict(form)
        facts["turns_form"] = facts.pop("turns")  # `turns` are those of a batch
        self.records.append(facts | more)
        silent = {"equality", "kernels", "valid_audio_seconds_a_second"}
        same = more.get("equality")
        verdict = f"near ties {same['near_ties']}, WRONG {same['wrong']} of {same['rows']}" if same else ""
        self.note(f"{form.name} { ({key: value for key, value in more.items() if key not in silent}) } {verdict}")
        self.write()

    def write(self) -> None:
        """One line a case."""
        head = {"machine": self._machine, "encoder_audio_seconds_a_second": ENCODER_RATE}
        cases = ",\n".join(json.dumps(record) for record in self.records)
        self._path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + cases + "\n]}\n")


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What all forms of this run have in common.

    Attributes:
        folder: Of heads and plans.
        works: By head and seconds of audio.
        report: Of the cases.
    """

    folder: Path
    works: dict[str, dict[int, Work]]
    report: Report

    def plan(self, form: Form) -> tensorrt.Plan:
        """As it was built."""
        return tensorrt.Plan((self.folder / f"{form.name}.plan").read_bytes())

    def build(self, forms: Sequence[Form], library: str, workers: int) -> list[Form]:
        """Build the plans; those that could be built, in their order."""
        built = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(build, form, self.folder, library) for form in forms]):
                form, seconds, error = future.result()
                if seconds is None:
                    self.report.add(form, error=error)
                    continue
                built.append(form)
                size = (self.folder / f"{form.name}.plan").stat().st_size
                self.report.add(form, build_seconds=seconds, plan_bytes=size)
        return sorted(built, key=forms.index)

    def measure(self, form: Form) -> None:
        """Check and time one form; what fails is written down, and the others go on."""
        head, works = head_named(form.head, self.folder), self.works[form.head]
        try:
            if form.kind == "loop":
                measure_loop(form, self.plan(form), works, head, self.report.add)
            else:
                measure_calls(form, self.plan(form), works, head, self.report.add)
        except (BuilderError, RuntimeError) as error:
            self.report.add(form, error=repr(error))

    def measure_together(self, built: Sequence[Form]) -> None:
        """What is asked of some forms alone: capture as a CUDA graph, and decoding beside an encoder."""
        loops = [form for form in built if (form.kind, form.precision) == ("loop", "FP16")]
        for form in loops[:2]:
            head = head_named(form.head, self.folder)
            capture_loop(form, self.plan(form), self.works[form.head][USUAL], head, self.report.add)
        encoder = Encoder(ENCODED_ROWS, FRAMES[USUAL])
        for form in filter(is_overlapped, built):
            feed = self.works[form.head][USUAL].feed(head_named(form.head, self.folder), form)
            overlap(form, self.plan(form), feed, encoder, self.report.add)


def prepare_all(names: Sequence[str], seconds: Sequence[int], rows: int, folder: Path) -> dict[str, dict[int, Work]]:
    """Make the heads, each by its own process."""
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        futures = {name: pool.submit(prepare, name, seconds, rows, folder) for name in names}
        return {name: future.result() for name, future in futures.items()}


def measure_on_cpu(form: Form, works: dict[int, Work], head: Head, add: Add) -> None:
    """Check a form with ONNX Runtime on the CPU."""
    once = partial(run_on_cpu, decoder_model(head, form))
    for seconds, work in works.items():
        feed = work.feed(head, form)
        found = run_calls(once, feed) if form.kind == "calls" else once(feed)
        add(form, seconds=seconds, equality=compare(said(found), work.reference, NEAR_TIE[form.precision]))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Greedy transducer decoding on a GPU."""


@app.command()
def run(
    results: Annotated[Path, typer.Argument(help="Folder for transducer_loop.json and .png.")],
    *,
    rtx: Annotated[bool, typer.Option(help="Build with TensorRT for RTX, without a GPU; check on the CPU.")] = False,
    small: Annotated[bool, typer.Option(help="Few small forms, to try this program.")] = False,
    heads: Annotated[list[str] | None, typer.Option("--head", help=f"Of {', '.join(HEADS)}; all without it.")] = None,
    seconds: Annotated[
        list[int] | None, typer.Option(help=f"Lengths of audio, of {list(FRAMES)}; all without it.")
    ] = None,
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Rows; all that are usual without it.")] = None,
    append: Annotated[bool, typer.Option(help="Add to the cases that the results hold already.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that build.")] = WORKERS,
) -> None:
    """Build, check and time the forms of the decoder."""
    lengths = seconds or ([2] if small else list(FRAMES))
    forms = [form for form in sweep(small) if form.head in (heads or HEADS) and (not batches or form.batch in batches)]
    results.mkdir(parents=True, exist_ok=True)
    library = "tensorrt_rtx" if rtx else "tensorrt"
    machine: dict[str, Any] = {"gpu": None if rtx else dataclasses.asdict(cuda.gpu()), "cores": os.cpu_count()}
    machine |= {library: tensorrt.version(library), "onnx": importlib.metadata.version("onnx")}
    report = Report(results / "transducer_loop.json", machine, append=append)
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = Path(temporary), max(form.batch for form in forms)
        works = prepare_all(sorted({form.head for form in forms}), lengths, rows, folder)
        this = Run(folder, works, report)
        length = USUAL if USUAL in lengths else lengths[0]
        for name, work in works.items():
            report.note(f"{name}: {work[length].turns(rows, 1)} turns for {rows} rows of {length} s")
            measure_cpu(name, work[length], length, head_named(name, folder), report.add)
        built = this.build(forms, library, workers)
        for form in built:
            if rtx:
                measure_on_cpu(form, works[form.head], head_named(form.head, folder), report.add)
            else:
                this.measure(form)
        if not rtx and USUAL in lengths:
            this.measure_together(built)
    plot(report.records, results / "transducer_loop.png")


if __name__ == "__main__":
    app()
