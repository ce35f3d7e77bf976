"""Operations of random programs on whole arrays: products, indices, orders, windows, matrices, and what is inert."""

from __future__ import annotations

from funcgrad.crosscheck.programs.builder import Builder, Unfit
from funcgrad.crosscheck.programs.data import Variable
from funcgrad.crosscheck.programs.nested import NESTED


def listed(table: str) -> list[str]:
    """The expressions of a table."""
    return [entry.strip() for line in table.splitlines() for entry in line.split("|") if entry.strip()]


def is_complex(b: Builder) -> bool:
    """Whether the program's dtype is complex."""
    return b.dtype.startswith("complex")


# ---- contractions ----


def product(b: Builder) -> None:
    """A matrix product, an inner or an outer one."""
    x = b.operand(domain="small", where=lambda v: len(v.shape) in (1, 2))
    y = b.operand(domain="small", where=lambda v: len(v.shape) in (1, 2) and v.shape[0] == x.shape[-1])
    options = ["{0} @ {1}", "jnp.dot({0}, {1})", "lax.dot_general({0}, {1}, ((({0}.ndim - 1,), (0,)), ((), ())))"]
    if len(x.shape) == len(y.shape) == 2:
        options += ["jnp.einsum('ij,jk->ki', {0}, {1})", "jnp.tensordot({0}, {1}, 1)",
                    "jax.vmap(jnp.outer)({0}, {1}.T)[0]" if x.shape[0] == y.shape[1] > 0 else "{0} @ {1}"]
    if len(x.shape) == len(y.shape) == 1:
        options += ["jnp.outer({0}, {1})", "jnp.vdot({0}, {1})", "jnp.inner({0}, {1})", "jnp.kron({0}, {1})"]
    template = b.one_of(options)
    b.apply(template, template, x, y)


def batched(b: Builder) -> None:
    """A product with a batch dimension."""
    x = b.operand(domain="small", where=lambda v: len(v.shape) == 2)
    y = b.operand(domain="small", shape=x.shape)
    template = b.one_of(["jnp.einsum('ij,ij->i', {0}, {1})", "jnp.einsum('ij,ij->ij', {0}, {1})",
                         "lax.dot_general({0}, {1}, (((1,), (1,)), ((0,), (0,))))", "{0} @ {1}.T",
                         "jnp.einsum('ij,kj->ik', {0}, {1})"])
    b.apply(template, template, x, y)


def convolution(b: Builder) -> None:
    """A convolution of vectors or of small images."""
    if is_complex(b):
        raise Unfit("real only")
    if b.chance(2):
        x = b.operand(domain="small", where=lambda v: len(v.shape) == 1 and v.shape[0] > 1)
        y = b.operand(domain="small", where=lambda v: len(v.shape) == 1 and v.shape[0] > 1)
        mode = b.one_of(["full", "same", "valid"])
        b.apply("convolve", f"jnp.convolve({{0}}, {{1}}, '{mode}')", x, y)
    else:
        x = b.operand(domain="small", where=lambda v: len(v.shape) == 2 and min(v.shape) > 1)
        y = b.operand(domain="small", where=lambda v: len(v.shape) == 2 and min(v.shape) > 1)
        padding = b.one_of(["SAME", "VALID"])
        b.apply("conv", f"lax.conv({{0}}[None, None], {{1}}[None, None], ({1 + b.choose(2)}, 1), '{padding}')", x, y)


# ---- indices ----


def gather(b: Builder) -> None:
    """Elements at positions that are data."""
    x = b.operand(domain=None, where=lambda v: bool(v.shape) and v.shape[0] > 0)
    out = b.chance(4)
    i = b.indices(b.one_of([(2,), (), (3,), (1,), (0,)]), x.shape[0], out)
    options = ["{0}[{1}]", "jnp.take({0}, {1}, axis=0)", "{0}.at[{1}].get(mode='fill', fill_value=0)",
               "{0}.at[{1}].get(mode='clip')", "jnp.take({0}, {1}, axis=0, mode='clip')",
               "jnp.take({0}, {1}, axis=0, mode='wrap')"]
    if i.shape == ():
        options = ["{0}[{1}]", "lax.dynamic_index_in_dim({0}, {1})", "lax.dynamic_slice_in_dim({0}, {1}, 1)",
                   "lax.dynamic_slice({0}, ({1},) + (0,) * ({0}.ndim - 1), (1,) + {0}.shape[1:])"]
    if len(x.shape) == 1 and i.shape:
        options.append("jnp.take_along_axis({0}, {1} % 1, 0)")
    template = b.one_of(options)
    b.apply(template, template, x, i)


def scatter(b: Builder) -> None:
    """An array with some elements changed, at positions that are data."""
    x = b.operand(where=lambda v: bool(v.shape) and v.shape[0] > 0)
    out = b.chance(4)
    i = b.indices(b.one_of([(2,), (1,), (3,), ()]), x.shape[0], out)
    y = b.operand(shape=i.shape + x.shape[1:])
    methods = ["add", "set", "add"] if is_complex(b) else ["add", "set", "max", "min", "add"]
    method = b.one_of(methods)
    mode = b.one_of(["", ", mode='drop'", ", mode='clip'"])
    b.apply(f"at {method}", f"{{0}}.at[{{1}}].{method}({{2}}{mode})", x, i, y)


def segment(b: Builder) -> None:
    """Sums, maxima and products of segments, and slices written into arrays."""
    x = b.operand(where=lambda v: bool(v.shape) and v.shape[0] > 0)
    if b.chance(2):
        i = b.indices((), x.shape[0], b.chance(4))
        y = b.operand(shape=(1, *x.shape[1:]))
        template = b.one_of(["lax.dynamic_update_slice_in_dim({0}, {1}, {2}, 0)",
                             "lax.dynamic_update_index_in_dim({0}, {1}[0], {2}, 0)"])
        b.apply("dynamic_update_slice", template, x, y, i)
        return
    i = b.indices((x.shape[0],), 2, b.chance(4))
    name = b.one_of(["sum"] if is_complex(b) else ["sum", "max", "min"])
    if name == "sum":
        b.apply("segment_sum", "jax.ops.segment_sum({0}, {1}, 2)", x, i)
    else:
        b.apply(f"segment_{name}", f"jnp.nan_to_num(jax.ops.segment_{name}({{0}}, {{1}}, 2), neginf=0, posinf=0)", x, i)


def ordering(b: Builder) -> None:
    """Sorted arrays."""
    if is_complex(b):
        raise Unfit("real only")
    x = b.operand(where=lambda v: bool(v.shape) and v.shape[-1] > 0)
    options = ["jnp.sort({0})", "lax.top_k({0}, 1)[0]", "jnp.sort({0}, axis=0)", "-jnp.sort(-{0})",
               "jnp.take_along_axis({0}, jnp.argsort({0}, axis=-1), -1)", "lax.sort(({0}, {0} * 2), num_keys=1)[1]",
               f"lax.top_k({{0}}, {x.shape[-1]})[0]", "jnp.flip(jnp.sort({0}), -1)"]
    template = b.one_of(options)
    b.apply(template, template, x)


def window(b: Builder) -> None:
    """Sums and maxima over windows."""
    if is_complex(b):
        raise Unfit("real only")
    x = b.operand(where=lambda v: len(v.shape) == 1 and v.shape[0] > 1)
    start, name = b.one_of([("0.0", "add"), ("-jnp.inf", "max"), ("jnp.inf", "min")])
    stride, padding = 1 + b.choose(2), b.one_of(["VALID", "SAME"])
    init = f"jnp.array({start}, {{0}}.dtype)[()]" if name == "add" else start
    b.apply(f"reduce_window {name}", f"lax.reduce_window({{0}}, {init}, lax.{name}, (2,), ({stride},), '{padding}')", x)


# ---- linear algebra, Fourier ----


def square_matrix(b: Builder) -> Variable:
    """A matrix of 2 or 3 rows that is far from singular and has distinct eigenvalues."""
    if b.dtype not in ("float32", "float64"):
        raise Unfit("LAPACK's dtypes only")
    x = b.operand(domain="small", where=lambda v: v.shape in ((3, 3), (2, 3)))
    n = x.shape[0]
    return b.apply("matrix", f"{{0}} @ {{0}}.T + jnp.diag(jnp.arange(1, {n + 1}).astype({{0}}.dtype))", x)


LINALG = """jnp.linalg.cholesky({0})|jnp.linalg.inv({0})|jnp.linalg.det({0})|jnp.linalg.slogdet({0})[1]
    jnp.linalg.eigvalsh({0})|jnp.linalg.svd({0}, compute_uv=False)|jnp.linalg.qr({0})[1]|jnp.linalg.matrix_power({0}, 2)
    jnp.linalg.norm({0})|jnp.trace({0})|jnp.abs(jnp.linalg.eigh({0})[1])|jax.scipy.linalg.lu({0})[1]"""
SOLVES = """jnp.linalg.solve({0}, {1})|jax.scipy.linalg.solve_triangular({0}, {1}, lower=True)
    jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor({0}), {1})
    lax.linalg.triangular_solve({0}, {1}[:, None], left_side=True, transpose_a=True)"""


def linalg(b: Builder) -> None:
    """A decomposition of a matrix, or a solution."""
    a = square_matrix(b)
    if b.chance(3):
        template = b.one_of(listed(SOLVES))
        b.apply(template, template, a, b.operand(domain="small", shape=(a.shape[0],)))
    else:
        template = b.one_of(listed(LINALG))
        b.apply(template, template, a)


def fourier(b: Builder) -> None:
    """Fourier transforms."""
    if b.dtype not in ("float32", "float64", "complex64"):
        raise Unfit("no FFT of this dtype")
    x = b.operand(where=lambda v: bool(v.shape) and v.shape[-1] > 1)
    options = (["jnp.fft.fft({0})", "jnp.fft.ifft({0})", "jnp.fft.fft({0}, axis=0)"] if is_complex(b) else
               ["jnp.fft.fft({0}).real", "jnp.fft.rfft({0}).imag", "jnp.fft.irfft({0})",
                "jnp.abs(jnp.fft.rfft({0}) + 2)"])
    template = b.one_of(options)
    b.apply(template, template, x)


# ---- what carries no gradient, or all of it ----


def inert(b: Builder) -> None:
    """Operations that cut the path, or leave everything as it is."""
    x = b.operand(domain=None)
    template = b.one_of(["lax.stop_gradient({0})", "checkpoint_name({0}, 'kept')", "lax.optimization_barrier({0})",
                         "{0} - lax.stop_gradient({0})", "jnp.zeros_like({0})", "{0} * jnp.isfinite({0})"])
    b.apply(template, template, x)


def random_numbers(b: Builder) -> None:
    """Random numbers, and those that have a derivative with respect to a parameter."""
    if is_complex(b):
        raise Unfit("real only")
    template = b.one_of(["{0} * jax.random.normal(jax.random.key(1), {0}.shape, {0}.dtype)",
                         "{0} + jax.random.uniform(jax.random.key(2), {0}.shape, {0}.dtype)",
                         "jax.random.gamma(jax.random.key(3), {0}, dtype={0}.dtype)"])
    gamma = "gamma" in template
    if gamma and b.dtype not in ("float32", "float64"):
        raise Unfit("too coarse for rejection sampling")
    b.apply(template, template, b.operand(domain="positive" if gamma else "real"))


def control(b: Builder) -> None:
    """A loop, a branch, a mapped or rematerialized function, a function with a rule of its own."""
    b.one_of(NESTED)(b)
