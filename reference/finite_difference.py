"""Derivatives from function values alone: central differences in float64 with Richardson extrapolation.

Method. The error of D(h) = (f(x + h v) - f(x - h v)) / 2h is a series in h**2, h**4, ...; differences at
shrinking steps are combined into a tableau that cancels one power after the other. The entry of
least estimated error is the answer, and that error is given back with it (C. J. F. Ridders, "Accurate
computation of F'(x) and F'(x) F''(x)", Advances in Engineering Software 4 (1982) 75-76; W. H. Press et al.,
"Numerical Recipes", 3rd ed., section 5.7).

Steps. Numerical Recipes starts at "an increment in x over which the function should change substantially";
here the first step moves the largest entry by about a tenth of max(1, |entry|). Unlike there, nothing stops
early: steps shrink to under 1e-5 of the first, and on to a thousandth of the smallest entry that moves, so a
function that lives on the scale of its argument (log at 1e-6) is met as well. Points outside the domain drop
out.

Error. For each output element the sum of

* the larger of the disagreements between an entry and the two that it was made from (Ridders);
* rounding, carried through the tableau: of x + h v, and of the values (by the dtype that comes out, or by the
  roughness seen at the finest steps if that is more, as for a float32 computation inside);
* the part of an entry's disagreement with the finer differences that these do not grant themselves;
* half of the jump between the derivatives to the right and to the left, found by extrapolating
  (f(x + h v) - 2 f(x) + f(x - h v)) / h, which vanishes with h where f is smooth. At a kink (|x| at 0) value
  +- error then holds both one-sided derivatives, and every convention between them.

It is an estimate, not a bound. A feature narrower than the finest step deceives it, and so does a staircase
with wider treads: values rounded inside (a cast to float32, or 1e8 + x**2 - 1e8 near 0) and widened again look
flat. What comes out as float32 is not affected, its dtype tells.

All floats of the arguments are widened to float64 (complex to complex128), and JAX has 64 bits switched on
during the call. JAX arrays stay JAX arrays, NumPy arrays NumPy, Python numbers Python numbers. Integers,
booleans and keys are held fixed. Pass `jax.jit(f)` where speed matters: an element costs 37 calls or more.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

COLUMNS = 6  # extrapolating further gains nothing over rounding
SHRINK = 1.9  # not 2: float32 roundings inside repeat at halved steps, and then agree for no reason
FEWEST_STEPS = 18
MOST_STEPS = 48


class Estimate(NamedTuple):
    """A derivative and an estimate of its absolute error, two pytrees of the same structure.

    Where the function has no finite values around the point, the value is NaN and the error infinite.
    """

    value: Any
    error: Any


def directional_derivative(function, x, direction, *rest):
    """Estimate the derivative of `function(x, *rest)` with respect to x along `direction`.

    Args:
        function: pure, from pytrees to a pytree of arrays or numbers, of any shapes.
        x: pytree of arrays and numbers, the point.
        direction: pytree like x; entries that belong to integers, booleans or keys are ignored.
        rest: further arguments, held fixed (widened to float64 too).
    Returns:
        `Estimate` of float64 or complex128 arrays, structured like the output of `function`.

    >>> out = directional_derivative(lambda x: np.sum(x**2), np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    >>> print(f"{out.value:.9f}, off by less than 1e-12: {out.error < 1e-12}")
    4.000000000, off by less than 1e-12: True
    """
    leaves, structure = jax.tree.flatten(x)
    arrows, arrow_structure = jax.tree.flatten(direction)
    if arrow_structure != structure:
        raise ValueError(f"direction has the structure {arrow_structure}, x has {structure}")
    for leaf, arrow in zip(leaves, arrows, strict=True):
        if np.shape(leaf) != np.shape(arrow):
            raise ValueError(f"direction has a leaf of shape {np.shape(arrow)} where x has {np.shape(leaf)}")
    arrows = [_wide(arrow) if _moves(leaf) else None for leaf, arrow in zip(leaves, arrows, strict=True)]
    with jax.enable_x64(True):
        out, value, error = _slope(_line(function, leaves, structure, arrows, rest), leaves, arrows)
    return Estimate(_like(out, value), _like(out, error))


def partial_derivative(function, x, leaf, index, *rest):
    """Estimate the derivative of `function(x, *rest)` with respect to one element of x.

    Args:
        leaf: which leaf of x, in the order of `jax.tree.leaves`.
        index: the element's index in that leaf; `()` for a number.
        function, x, rest, and what is returned: as for `directional_derivative`.

    >>> w = {"a": np.array([3.0, 5.0]), "b": 2.0}
    >>> out = partial_derivative(lambda w: np.prod(w["a"]) * w["b"], w, 0, 1)
    >>> print(f"{out.value:.9f}")
    6.000000000
    """
    leaves, structure = jax.tree.flatten(x)
    direction = [np.zeros(np.shape(other)) for other in leaves]
    direction[leaf][index] = 1.0
    return directional_derivative(function, x, structure.unflatten(direction), *rest)


def gradient(function, x, *rest):
    """Estimate every element of the gradient of a real, scalar `function(x, *rest)` with respect to x.

    A complex element z = a + ib gives df/da - i df/db, as `jax.grad` does; integers give float0, as there.

    Args:
        function, x, rest: as for `directional_derivative`; one real number comes out.
    Returns:
        `Estimate` of two pytrees like x.

    >>> w = {"a": np.array([3.0, 5.0]), "b": 2.0}
    >>> out = gradient(lambda w, t: np.sum(w["a"] * t) + w["b"] ** 3, w, 4.0)
    >>> out.value
    {'a': array([4.000000000, 4.000000000]), 'b': array(12.000000000)}
    >>> bool(out.error["b"] < 1e-11)
    True
    """
    leaves, structure = jax.tree.flatten(x)
    with jax.enable_x64(True):
        parts = [_leaf_gradient(function, leaves, structure, place, rest) for place in range(len(leaves))]
    values, errors = zip(*parts, strict=True) if parts else ((), ())
    return Estimate(structure.unflatten(values), structure.unflatten(errors))


def _leaf_gradient(function, leaves, structure, place, rest):
    """Return the gradient with respect to one leaf, and its error."""
    if not _moves(leaves[place]):
        nothing = np.zeros(np.shape(leaves[place]), jax.dtypes.float0)
        return nothing, nothing
    start = _wide(leaves[place])
    value, error = np.zeros_like(start), np.zeros(start.shape)
    units = (1.0, 1j) if np.iscomplexobj(start) else (1.0,)
    for index in np.ndindex(start.shape):
        for unit in units:
            arrows = [None] * len(leaves)
            arrows[place] = np.zeros_like(start)
            arrows[place][index] = unit
            line = _line(function, leaves, structure, arrows, rest)
            out, slope, slope_error = _slope(line, leaves, arrows)
            if slope.shape != (1,) or np.iscomplexobj(slope):
                raise ValueError(f"gradient needs a function with one real output, this one gives {out}")
            value[index] += np.conj(unit) * slope[0]
            error[index] += slope_error[0]
    return value, error


def _moves(leaf):
    """Tell whether a leaf is a float or a complex number, of whatever precision."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)


def _wide(leaf):
    """Return an array or number in double precision, as a NumPy array."""
    leaf = np.asarray(leaf)
    return leaf.astype(np.complex128 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else np.float64)


def _same_kind(array, leaf):
    """Return `array` as what `leaf` is: JAX array, NumPy array or scalar, Python number."""
    if isinstance(leaf, jax.Array):
        return jnp.asarray(array)
    if isinstance(leaf, (np.ndarray, np.generic)):
        return array if isinstance(leaf, np.ndarray) else array[()]
    return array.item()


def _line(function, leaves, structure, arrows, rest):
    """Return the function along a line, `h -> function(x + h direction, *rest)`; no arrow, no move."""
    starts = [_wide(leaf) if _moves(leaf) else None for leaf in leaves]
    rest = jax.tree.map(lambda leaf: _same_kind(_wide(leaf), leaf) if _moves(leaf) else leaf, rest)

    def line(h):
        moved = [
            leaf if start is None else _same_kind(start if arrow is None else start + h * arrow, leaf)
            for leaf, start, arrow in zip(leaves, starts, arrows, strict=True)
        ]
        return function(structure.unflatten(moved), *rest)

    return line


def _vector(out):
    """Return all numbers of a pytree as one vector of float64, or complex128 where one of them is complex."""
    return np.concatenate([np.zeros(0)] + [np.ravel(_wide(leaf)) for leaf in jax.tree.leaves(out)])


def _like(out, vector):
    """Return the numbers of a vector in the structure and shapes of `out`."""
    leaves, structure = jax.tree.flatten(out)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])
    parts = np.split(vector, ends[:-1]) if leaves else []
    restored = []
    for part, leaf in zip(parts, leaves, strict=True):
        part = part if np.iscomplexobj(_wide(leaf)) else part.real
        restored.append(part.reshape(np.shape(leaf))[()])
    return structure.unflatten(restored)


def _rounding_unit(out):
    """Return, for each number that came out, 4 units in the last place of its dtype."""
    units = [np.zeros(0)]
    for leaf in jax.tree.leaves(out):
        unit = float(jnp.finfo(leaf.dtype).eps) if _moves(leaf) and hasattr(leaf, "dtype") else 2.0**-52
        units.append(np.full(np.size(leaf), 4.0 * unit))
    return np.concatenate(units)


def _steps(leaves, arrows):
    """Return the shrinking steps, and the largest |x| / |v|: by how much the rounding of x + h v counts."""
    moving = [(_wide(leaf), arrow) for leaf, arrow in zip(leaves, arrows, strict=True) if arrow is not None]
    x = np.concatenate([np.zeros(0)] + [np.abs(start).ravel() for start, _arrow in moving])
    v = np.concatenate([np.zeros(0)] + [np.abs(arrow).ravel() for _start, arrow in moving])
    x, v = x[v > 0], v[v > 0]
    if not v.size:
        return SHRINK ** -np.arange(FEWEST_STEPS), 0.0
    first = 0.1 * max(1.0, np.max(x)) / np.max(v)
    last = np.min(1e-3 * x[x > 0] / v[x > 0], initial=first)
    count = int(np.ceil(np.log(first / last) / np.log(SHRINK)))
    steps = first * SHRINK ** -np.arange(min(max(count, FEWEST_STEPS), MOST_STEPS))
    return steps, np.max(x) / np.max(v)


def _slope(line, leaves, arrows):
    """Return the output at the point, the derivative along the line as a vector, and its error."""
    steps, reach = _steps(leaves, arrows)
    out = line(0.0)
    center = _vector(out)

    def values(h):
        try:
            return _vector(line(h))
        except (ArithmeticError, ValueError):  # plain Python's way to say that h leads out of the domain
            return np.full_like(center, np.nan)

    h = steps[:, None]
    with np.errstate(all="ignore"):
        right, left = (np.stack([values(sign * step) for step in steps]) for sign in (1.0, -1.0))
        differences = (right - left) / (2.0 * h)
        noise = _rounding_unit(out) * np.fmax(np.abs(right), np.abs(left))
        noise += 2.0**-52 * reach * np.abs(differences)
        rounding = np.fmax(noise, _roughness(differences, h)) / h
        value, error = _ridders(differences, rounding, first_power=2)
        bends = (right - 2.0 * center + left) / h
        jump, jump_error = _ridders(bends, 2.0 * rounding, first_power=1)
    unsure = np.where(np.isfinite(jump_error), np.fmax(np.abs(jump) - jump_error, 0.0) / 2.0, np.inf)
    return out, value, error + unsure


def _roughness(differences, h):
    """Return the noise of the function's values as the finest steps show it, one number per output.

    With two powers extrapolated away, what is left between neighbours there is noise, divided by h.
    """
    column = differences
    for power in (2, 4):
        column = (SHRINK**power * column[1:] - column[:-1]) / (SHRINK**power - 1.0)
    rough = np.abs(np.diff(column, axis=0)) * h[3:]
    return 3.0 * np.fmax.reduce(rough[-3:], axis=0)  # three samples can all be small; times 3, they were not


def _ridders(differences, rounding, first_power):
    """Extrapolate differences at shrinking steps to step zero.

    Args:
        differences: (steps, outputs); row k is off by a series in h_k, of powers first_power + 0, 2, 4 ...
        rounding: (steps, outputs), the rounding error of each.
    Returns:
        For each output the tableau's entry of least error, and that error; NaN and infinity if there is none.
    """
    differences = np.where(np.isfinite(differences), differences, np.nan)
    column, noise = differences, rounding
    spread = np.abs(np.diff(column, axis=0, prepend=np.nan))
    slack = spread + rounding
    value, least = np.full_like(column[0], np.nan), np.full(column.shape[1:], np.inf)
    error = spread
    for power in range(first_power, first_power + 2 * COLUMNS, 2):
        total = error + noise + _unexplained(column, differences, slack)
        total = np.where(np.isfinite(total), total, np.inf)
        pick = np.argmin(total, axis=0)[None]
        entry, entry_error = (np.take_along_axis(array, pick, axis=0)[0] for array in (column, total))
        value, least = np.where(entry_error < least, entry, value), np.fmin(least, entry_error)
        coarse, fine, factor = column[:-1], column[1:], SHRINK**power
        column = (factor * fine - coarse) / (factor - 1.0)
        error = np.fmax(np.abs(column - fine), np.abs(column - coarse))
        noise = (factor * noise[1:] + noise[:-1]) / (factor - 1.0)
    return value, least


def _unexplained(column, differences, slack):
    """Return how far each entry is from the finer differences, beyond the slack of those.

    Two coarse differences can agree by chance (a wave that both skip); the finer ones then speak against it.
    """
    excess = np.zeros(column.shape)
    made_of = len(differences) - len(column)  # entry i was made from the differences i to i + made_of
    for finer in range(1, len(differences)):
        coarser = slice(0, max(finer - made_of, 0))
        distance = np.abs(column[coarser] - differences[finer]) - slack[finer]
        excess[coarser] = np.fmax(excess[coarser], distance)
    return excess
