"""The pictures in the documentation, made from runs: `python -m tests.inspection.pictures` writes them anew."""

import random
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from funcgrad.inspection import Drawing, draw, explain
from funcgrad.transforms import make_graph
from reference import flax_models

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def f(x, y):
    return x * y + jnp.log(x)


def twice(a):
    b = a + a
    c = b + b
    return c


def random_program(operations: int):
    """Each result is read by two others, at random among the last twenty: nothing folds."""
    choose = random.Random(0)

    def program(x, y):
        values = [x, y]
        for _ in range(operations // 3):
            value = values[-1 - choose.randrange(min(len(values), 20))]
            values.append(choose.choice([jnp.sin, jnp.cos, jnp.tanh])(value))
            values.append(values[-1] * value)
        return sum(values)

    return program


def product_and_log() -> Drawing:
    """x*y + log(x) at (2, 3)."""
    return explain(f)(2.0, 3.0).draw()


def why_order_matters() -> Drawing:
    """a = 1; b = a + a; c = b + b."""
    return explain(twice)(1.0).draw()


def product_and_log_backward() -> Drawing:
    """x*y + log(x) beside its gradient's own program."""
    return explain(f, backward=True)(2.0, 3.0).draw()


def two_layer() -> Drawing:
    """The two-layer classifier with its loss closed."""
    loss, params, batch = flax_models.build("two_layer", jax.random.key(0))

    def classifier(params):
        return loss(params, batch)

    return explain(classifier)(params).draw(limit=16)


def transformer() -> Drawing:
    """A transformer of twelve layers, written out; the layers are folded."""
    loss, params, batch = flax_models.unrolled_transformer(layers=12, width=8, heads=2, batch=1, tokens=4)
    names = [f"params{jax.tree_util.keystr(path, simple=True, separator='.').join(['.', ''])}"
             for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return draw(make_graph(loss)(params, batch), limit=40, names=[*names, "x", "target"])


def transformer_scan() -> Drawing:
    """The same twelve layers under `lax.scan`."""
    loss, params, batch = flax_models.scanned_transformer(layers=12, width=8, heads=2, batch=1, tokens=4)
    return explain(loss)(params, batch).draw(limit=40)


PICTURES = {
    "graph_product_and_log": product_and_log, "graph_twice": why_order_matters,
    "graph_gradient": product_and_log_backward, "graph_two_layer": two_layer,
    "graph_transformer": transformer, "graph_transformer_scan": transformer_scan,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or PICTURES:
        PICTURES[name]().save(IMAGES / f"{name}.svg")
