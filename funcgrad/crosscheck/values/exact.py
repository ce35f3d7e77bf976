"""A program of JAX's with hundreds of digits, so that no rounding hides a small slope. Needs mpmath, if it is there.

Real arrays become NumPy arrays of mpmath numbers, everything else stays what it is. Only values are computed: what the
slope is, differences say (`judging/digits.py`). So nothing here knows a derivative, and none of JAX's or funcgrad's
rules is asked. The functions are those of mpmath and, where it has none, one line of a textbook.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from funcgrad.crosscheck.compare import is_inexact
from funcgrad.crosscheck.held import CUSTOM, RUNS, closed
from funcgrad.crosscheck.values.wide import double

#: Enough to see a slope of 1e-308 beside a value of 1 with a step of 1e-30.
DIGITS = 350
#: The most numbers that one run may compute; 5 to 60 microseconds each.
LONGEST_RUN = 2_000

#: Functions of one number: their name in mpmath, or what they are made of.
UNARY: dict[str, str | Callable[[Any, Any], Any]] = {
    "exp": "exp", "expm1": "expm1", "log": "log", "log1p": "log1p", "sqrt": "sqrt", "tanh": "tanh",
    "sinh": "sinh", "cosh": "cosh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "sin": "sin", "cos": "cos",
    "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "erf": "erf", "erfc": "erfc", "erf_inv": "erfinv",
    "digamma": "digamma", "floor": "floor", "ceil": "ceil", "sign": "sign", "abs": "fabs",
    "exp2": lambda mp, x: mp.power(2, x),
    "logistic": lambda mp, x: 1 / (1 + mp.exp(-x)),
    "cbrt": lambda mp, x: mp.sign(x) * mp.cbrt(mp.fabs(x)),
    "rsqrt": lambda mp, x: 1 / mp.sqrt(x),
    "square": lambda _mp, x: x * x,
    "neg": lambda _mp, x: -x,
    "lgamma": lambda mp, x: mp.log(mp.fabs(mp.gamma(x))),
    "bessel_i0e": lambda mp, x: mp.besseli(0, x) * mp.exp(-mp.fabs(x)),
    "bessel_i1e": lambda mp, x: mp.besseli(1, x) * mp.exp(-mp.fabs(x)),
}
_BINARY: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide, "pow": np.power,
    "max": np.maximum, "min": np.minimum,
}
_COMPARED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal}
_REDUCED: dict[str, Callable[..., Any]] = {
    "reduce_sum": np.sum, "reduce_prod": np.prod, "reduce_max": np.max, "reduce_min": np.min}
#: What moves numbers and computes none: it is shown their positions instead of them.
_MOVED = frozenset({
    "reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "slice", "rev", "concatenate", "gather",
    "pad", "dynamic_slice", "dynamic_update_slice", "split", "select_n", "copy", "copy_p", "scatter",
    "optimization_barrier"})


class NotExact(Exception):
    """A program cannot be run with many digits."""


@dataclasses.dataclass
class Run:
    """One run of a program.

    Attributes:
      constants: what `stop_gradient` gave in another run, in order; None: this run is to write it down.
      seen: what it gave in this one.
      left: how many numbers may still be computed.
    """

    constants: Sequence[np.ndarray] | None = None
    seen: list[np.ndarray] = dataclasses.field(default_factory=list)
    left: int = LONGEST_RUN

    def spend(self, count: int) -> None:
        """Count numbers.

        Raises:
          NotExact: when there are too many.
        """
        self.left -= count
        if self.left < 0:
            raise NotExact(f"more than {LONGEST_RUN} numbers")

    def constant(self, value: np.ndarray) -> np.ndarray:
        """What a path that the program cuts itself gives: the same wherever the inputs have moved."""
        if self.constants is not None:
            value = self.constants[len(self.seen)]
        self.seen.append(value)
        return value


@functools.cache
def arithmetic() -> Any:
    """mpmath with many digits, apart from everybody else's; None where it is not installed."""
    try:
        import mpmath  # type: ignore[import-untyped]
    except ImportError:
        return None
    context = mpmath.MPContext()
    context.dps = DIGITS
    return context


@np.errstate(all="ignore")
def exact(value: Any) -> np.ndarray:
    """An array with its real numbers as mpmath's; integers and booleans as they are."""
    array = np.asarray(value)
    if not is_inexact(array):
        return array
    if np.iscomplexobj(array):
        raise NotExact("complex numbers")
    return _boxed(np.frompyfunc(lambda x: arithmetic().mpf(float(x)), 1, 1)(array.astype(np.float64)))


def function(name: str) -> Callable[[Any], Any]:
    """One of the functions of one number."""
    made, context = UNARY[name], arithmetic()
    return getattr(context, made) if isinstance(made, str) else functools.partial(made, context)


def evaluate_exactly(jaxpr: Any, args: Sequence[np.ndarray], run: Run) -> list[np.ndarray]:
    """A closed jaxpr at exact arguments.

    Raises:
      NotExact: for an operation without an exact form, a result that is not real, or a run that is too long.
    """
    env: dict[Any, np.ndarray] = dict(zip(jaxpr.jaxpr.constvars, map(exact, jaxpr.consts), strict=True))
    env |= dict(zip(jaxpr.jaxpr.invars, args, strict=True))

    def read(atom: Any) -> np.ndarray:
        return exact(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else env[atom]

    for eqn in jaxpr.jaxpr.eqns:
        results = _operation(eqn, list(map(read, eqn.invars)), run)
        env.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, jaxpr.jaxpr.outvars))


@np.errstate(all="ignore")
def _operation(eqn: Any, args: list[np.ndarray], run: Run) -> Sequence[np.ndarray]:
    name, params = eqn.primitive.name, eqn.params
    run.spend(sum(int(np.prod(v.aval.shape)) for v in eqn.outvars))
    if name in _PROGRAMS:
        return _PROGRAMS[name](args, params, run)
    if name == "stop_gradient":
        return [run.constant(args[0])]
    if not any(x.dtype == object for x in args):
        return list(map(exact, _bound(eqn, args)))
    if name in _MOVED:
        return _moved(eqn, args)
    if name in UNARY:
        return [_real(np.frompyfunc(function(name), 1, 1)(args[0]))]
    if name in _BINARY:
        return [_real(_BINARY[name](*map(_promoted, args)))]
    if name in _COMPARED:
        return [np.asarray(_COMPARED[name](*args)).astype(bool)]
    if name == "is_finite":
        return [np.asarray(np.frompyfunc(arithmetic().isfinite, 1, 1)(args[0]), bool)]
    if name in _REDUCED:
        run.spend(args[0].size)
        return [_real(_REDUCED[name](args[0], axis=tuple(params["axes"])))]
    if name in _OTHERS:
        run.spend(args[0].size)
        return [_OTHERS[name](*args, **params)]
    raise NotExact(f"`{name}` has no exact form")


def _boxed(value: Any) -> np.ndarray:
    """An array of objects; NumPy gives back bare numbers for those without axes."""
    found = np.empty(np.shape(value), object)
    found[...] = value
    return found


def _real(value: Any) -> np.ndarray:
    found = _boxed(value)
    if not all(isinstance(x, arithmetic().mpf) for x in found.flat):
        raise NotExact("a number that is not real")
    return found


def _promoted(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == object else exact(array.astype(np.float64))


def _bound(eqn: Any, args: Sequence[Any]) -> list[Any]:
    with double():
        found = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
    return list(found) if eqn.primitive.multiple_results else [found]


def _moved(eqn: Any, args: Sequence[np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum([x.size if x.dtype == object else 0 for x in args])
    pool = np.concatenate([x.reshape(-1) for x in args if x.dtype == object])
    positions = [np.arange(end - x.size, end).reshape(x.shape) if x.dtype == object else x
                 for x, end in zip(args, ends, strict=True)]
    found = []
    for result in map(np.asarray, _bound(eqn, positions)):
        if result.size and not (0 <= result.min() and result.max() < pool.size):
            raise NotExact("an index outside")
        found.append(_boxed(pool[result]))
    return found


# ---- other operations ----


def _power(x: np.ndarray, *, y: int) -> np.ndarray:
    return _real(x**y)


def _converted(x: np.ndarray, *, new_dtype: Any, **params: Any) -> np.ndarray:
    del params
    if x.dtype == object and not np.issubdtype(new_dtype, np.floating):
        whole = bool if np.issubdtype(new_dtype, np.bool_) else int
        return np.array([whole(number) for number in x.flat], new_dtype).reshape(x.shape)
    return x


def _clamped(low: np.ndarray, x: np.ndarray, high: np.ndarray) -> np.ndarray:
    return _real(np.minimum(np.maximum(low, x), high))


def _contracted(lhs: np.ndarray, rhs: np.ndarray, *, dimension_numbers: Any, **params: Any) -> np.ndarray:
    del params
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = dimension_numbers
    left, right = list(range(lhs.ndim)), [lhs.ndim + axis for axis in range(rhs.ndim)]
    for mine, theirs in [*zip(lhs_contract, rhs_contract, strict=True), *zip(lhs_batch, rhs_batch, strict=True)]:
        right[theirs] = left[mine]
    free = [axis for axis in left if axis not in [*lhs_contract, *lhs_batch]]
    out = [*lhs_batch, *free, *(axis for axis in right if axis >= lhs.ndim)]
    return _real(np.einsum(_promoted(lhs), left, _promoted(rhs), right, out))


def _accumulated(ufunc: Any, x: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
    if reverse:
        return np.flip(ufunc.accumulate(np.flip(x, axis), axis), axis)
    return ufunc.accumulate(x, axis)


def _sorted(x: np.ndarray, *more: Any, dimension: int, **params: Any) -> np.ndarray:
    del params
    if more:
        raise NotExact("several arrays are sorted by one")
    return np.sort(x, axis=dimension)


_OTHERS: dict[str, Callable[..., np.ndarray]] = {
    "integer_pow": _power, "convert_element_type": _converted, "clamp": _clamped, "dot_general": _contracted,
    "sort": _sorted, "cumsum": functools.partial(_accumulated, np.add),
    "cumprod": functools.partial(_accumulated, np.multiply), "cummax": functools.partial(_accumulated, np.maximum),
    "cummin": functools.partial(_accumulated, np.minimum),
}


# ---- operations that hold programs ----


def _called(param: str, args: list[np.ndarray], params: Any, run: Run) -> list[np.ndarray]:
    return evaluate_exactly(closed(params[param]), args, run)


def _branched(args: list[np.ndarray], params: Any, run: Run) -> list[np.ndarray]:
    branch = int(np.clip(int(args[0]), 0, len(params["branches"]) - 1))
    return evaluate_exactly(closed(params["branches"][branch]), args[1:], run)


def _looped(args: list[np.ndarray], params: Any, run: Run) -> list[np.ndarray]:
    consts, carries, length = params["num_consts"], params["num_carry"], params["length"]
    carry, xs = args[consts : consts + carries], args[consts + carries:]
    order = list(range(length))[:: -1 if params["reverse"] else 1]
    made = []
    for step in order:
        given = [*args[:consts], *carry, *(_boxed(x[step]) if x.dtype == object else x[step] for x in xs)]
        results = evaluate_exactly(closed(params["jaxpr"]), given, run)
        carry = results[:carries]
        made.append(results[carries:])
    if not made:
        raise NotExact("a loop of no steps")
    stacked = [np.stack(ys) for ys in zip(*made[:: -1 if params["reverse"] else 1], strict=True)]
    return [*carry, *stacked]


_PROGRAMS: dict[str, Callable[..., list[np.ndarray]]] = {
    "cond": _branched, "scan": _looped,
    **{name: functools.partial(_called, param) for name, param in (RUNS | CUSTOM).items()}}
