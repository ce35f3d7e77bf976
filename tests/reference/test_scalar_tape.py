"""The scalar tape against `jax.grad` in float64, against finite differences, and against itself."""

import dataclasses
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reference import finite_difference
from reference.scalar_tape import (
    Mul,
    Scalar,
    backward_sweep,
    exp,
    grad,
    log,
    maximum,
    relu,
    topological_order,
    value_and_grad,
)


def variables(*numbers):
    return tuple(Scalar(number, level=1) for number in numbers)


# Each case: the function written once for both systems (`m` holds exp, log, relu, maximum), and a point.
CASES = {
    "add": (lambda m, x, y: x + y + 2.0 + (1.0 + y), (0.3, -1.2)),
    "sub": (lambda m, x, y: (x - y) - (1.0 - x) * (y - 3.0), (0.3, -1.2)),
    "mul": (lambda m, x, y: x * y * x * 3.0 * (2.0 * y), (0.3, -1.2)),
    "div": (lambda m, x, y: x / y + 1.0 / x + y / 4.0, (0.3, -1.2)),
    "neg": (lambda m, x, y: -(y * x) * -x, (0.3, -1.2)),
    "pow": (lambda m, x, y: x**y + x**3 + y**2 + 2.0**y + x**-1, (0.7, -1.2)),
    "exp_log": (lambda m, x, y: m.log(m.exp(x * y) + x) * m.exp(-y), (0.7, -1.2)),
    "relu_on": (lambda m, x, y: m.relu(x - y) * y, (0.7, -1.2)),
    "relu_off": (lambda m, x, y: m.relu(y - x) * y + x, (0.7, -1.2)),
    "relu_kink": (lambda m, x, y: m.relu(x) + y, (0.0, 1.0)),
    "maximum": (lambda m, x, y: m.maximum(x, y) * 3.0 + m.maximum(x * y, x), (0.7, 1.2)),
    "maximum_tie": (lambda m, x, y: m.maximum(x, y) * 3.0, (0.7, 0.7)),
    "fan_out": (lambda m, x, y: (x + x) * (x + x) + (y * x) * (y * x), (0.7, -1.2)),
    "branch": (lambda m, x, y: x * y if x > y and y <= 0.0 and x != 0.0 else x, (0.7, -1.2)),
    "loop": (lambda m, x, y: sum([x * k + y for k in range(5)]) ** 2, (0.7, -1.2)),
    "unused": (lambda m, x, y: x * x, (0.7, -1.2)),
    "constant": (lambda m, x, y: 3.0, (0.7, -1.2)),
}


SMOOTH = [name for name in CASES if name not in ("relu_kink", "maximum_tie")]


class Tape:
    exp, log, relu, maximum = staticmethod(exp), staticmethod(log), staticmethod(relu), staticmethod(maximum)


class Jax:
    exp, log, relu, maximum = jnp.exp, jnp.log, jax.nn.relu, jnp.maximum


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_jax(name):
    function, point = CASES[name]
    value, gradient = value_and_grad(lambda *args: function(Tape, *args))(*point)
    with jax.enable_x64(True):
        want_value, want = jax.value_and_grad(lambda *args: function(Jax, *args), argnums=(0, 1))(*point)
    assert all(type(number) is float for number in gradient)
    np.testing.assert_allclose(value, want_value, rtol=1e-14, atol=0)
    np.testing.assert_allclose(gradient, want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_is_that_of_finite_differences(name):
    function, point = CASES[name]
    gradient = value_and_grad(lambda *args: function(Tape, *args))(*point)[1]
    estimate = finite_difference.gradient(lambda args: function(Tape, *args), point)
    for got, want, error in zip(gradient, estimate.value, estimate.error, strict=True):
        assert abs(got - want) <= error + 1e-14 * abs(got)
        assert error <= 1e-7


@pytest.mark.parametrize("name", [name for name in SMOOTH if name != "constant"])
def test_second_derivatives_are_those_of_jax(name):
    function, (x, y) = CASES[name]
    both = grad(lambda x: grad(lambda y: function(Tape, x, y) * y * x)(y))(x)
    twice = grad(grad(lambda x: function(Tape, x, y)))(x)
    with jax.enable_x64(True):
        want_both = jax.grad(lambda x: jax.grad(lambda y: function(Jax, x, y) * y * x)(y))(x)
        want_twice = jax.grad(jax.grad(lambda x: function(Jax, x, y)))(x)
    np.testing.assert_allclose(both, want_both, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(twice, want_twice, rtol=1e-12, atol=1e-14)


def test_nested_levels_do_not_mix():
    # The inner derivative is x, not x + 1: the inner variable is not the outer one, though both hold 1.
    assert grad(lambda x: x * grad(lambda y: x * y)(1.0))(1.0) == 2.0
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(3.0) == 1.0
    # A comparison across levels looks at the numbers.
    assert grad(lambda x: grad(lambda y: x * y if x < y and y > x else y)(2.0))(1.0) == 1.0
    assert grad(grad(grad(grad(lambda x: x**5))))(2.0) == 240.0


def test_an_operator_records_its_function_and_its_inputs():
    x, y = variables(3.0, 4.0)
    product = x * y
    assert (product.value, product.function, product.inputs) == (12.0, Mul, (x, y))
    assert product.inputs[0] is x
    assert repr(product) == "Scalar(12.0, Mul)" and repr(x) == "Scalar(3.0, variable)"
    assert Mul.apply(3.0, 4.0) == 12.0  # no traced input: a plain number


def test_scalars_are_immutable_and_hash_like_their_number():
    (x,) = variables(3.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        x.value = 4.0
    x_before = x
    x += 1.0
    assert x_before.value == 3.0 and x.value == 4.0
    assert x == 4.0 and hash(x) == hash(4.0) and x in {4.0} and not Scalar(0.0, 1)


def test_what_would_lose_the_gradient_is_an_error():
    with pytest.raises(TypeError, match="must be real number, not Scalar"):
        grad(math.sin)(1.0)
    with pytest.raises(ValueError, match="math domain error"):
        grad(lambda x: x**0.5)(-1.0)


def test_topological_order_puts_inputs_first_and_visits_each_node_once():
    (a,) = variables(1.0)
    b = a + a
    c = b + b
    order = topological_order(c)
    assert [id(node) for node in order] == [id(a), id(b), id(c)]
    # The reverse of the order of discovery (depth first, children as found) would not do in general.
    d = a * (c * b)
    place = {id(node): position for position, node in enumerate(topological_order(d))}
    assert all(place[id(x)] < place[id(node)] for node in topological_order(d) for x in node.inputs)


def test_a_second_sweep_gives_the_same_answer():
    (a,) = variables(1.0)
    b = a + a
    c = b + b
    first, second = backward_sweep(c), backward_sweep(c)
    assert first == second and first[id(a)] == 4.0 and first[id(b)] == 2.0


def test_depth_is_no_limit():
    def f(x):
        for _k in range(100_000):
            x = x + 1.0
        return x * x

    assert value_and_grad(f)(1.0) == (100_001.0**2, 200_002.0)


def test_random_graphs_agree_with_jax():
    generator = random.Random(0)
    steps = [
        lambda m, x, y: x * y,
        lambda m, x, y: x - y,
        lambda m, x, y: x / (y * y + 1.0),
        lambda m, x, y: m.exp(-x * x) + y,
        lambda m, x, y: m.relu(x) + y,
        lambda m, x, y: m.maximum(x, y),
        lambda m, x, y: m.log(x * x + 1.0) * y,
    ]
    plan = [(generator.choice(steps), generator.random(), generator.random()) for _k in range(60)]

    def program(m, inputs):
        values = list(inputs)
        for step, left, right in plan:
            # Mostly recent values, with repeats: many nodes are used several times, some never.
            pick = [values[-1 - int(r * min(len(values), 6))] for r in (left, right)]
            values.append(step(m, *pick))
        return sum(values[-6:])

    point = [generator.uniform(-1, 1) for _k in range(4)]
    value, gradient = value_and_grad(lambda inputs: program(Tape, inputs))(point)
    with jax.enable_x64(True):
        want_value, want = jax.value_and_grad(lambda inputs: program(Jax, inputs))(point)
    np.testing.assert_allclose(value, want_value, rtol=1e-12)
    np.testing.assert_allclose(gradient, want, rtol=1e-10)
    assert np.any(np.asarray(gradient) != 0.0)


def softmax_loss(m, params, features, labels):
    """The two-layer ReLU classifier with a softmax loss, on nested lists, for either system."""

    def linear(w, b, x):
        columns = range(len(b))
        return [sum([x[i] * w[i][j] for i in range(len(x))]) + b[j] for j in columns]

    total = 0.0
    for x, label in zip(features, labels, strict=True):
        hidden = [m.relu(h) for h in linear(params["w1"], params["b1"], x)]
        logits = linear(params["w2"], params["b2"], hidden)
        highest = max(logits)
        total = total + m.log(sum([m.exp(z - highest) for z in logits])) + highest - logits[label]
    return total / len(labels)


def small_classifier(seed=0, features=2, hidden=5, classes=3, points=6):
    rng = np.random.default_rng(seed)
    params = {
        "w1": rng.normal(size=(features, hidden)).tolist(),
        "b1": rng.normal(size=hidden).tolist(),
        "w2": rng.normal(size=(hidden, classes)).tolist(),
        "b2": rng.normal(size=classes).tolist(),
    }
    return params, rng.normal(size=(points, features)).tolist(), rng.integers(classes, size=points).tolist()


def test_two_layer_classifier_agrees_with_jax():
    params, features, labels = small_classifier()
    value, gradient = value_and_grad(lambda params: softmax_loss(Tape, params, features, labels))(params)

    def vectorized(params):
        hidden = jax.nn.relu(jnp.asarray(features) @ params["w1"] + params["b1"])
        logits = hidden @ params["w2"] + params["b2"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), jnp.asarray(labels)])

    with jax.enable_x64(True):
        want_value, want = jax.value_and_grad(vectorized)({key: jnp.asarray(w) for key, w in params.items()})
        np.testing.assert_allclose(value, want_value, rtol=1e-13)
        for key in params:
            np.testing.assert_allclose(gradient[key], want[key], rtol=1e-12, atol=1e-15)
            assert isinstance(gradient[key], list)


def test_two_layer_classifier_learns_xor():
    corners, labels = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1, 0]
    params = small_classifier(seed=1, hidden=6, classes=2)[0]
    step = value_and_grad(lambda params: softmax_loss(Tape, params, corners, labels))
    first = step(params)[0]

    def descend(tree, gradient):
        if isinstance(tree, list):
            return [descend(branch, slope) for branch, slope in zip(tree, gradient, strict=True)]
        return tree - 0.5 * gradient

    for _k in range(200):
        loss, gradient = step(params)
        params = {key: descend(params[key], gradient[key]) for key in params}
    assert loss < 0.05 < first
