"""`draw`: what a picture holds, that nothing overlaps, and that large graphs stay small pictures."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import funcgrad
from funcgrad.inspection import draw, explain
from funcgrad.inspection.placement import place
from funcgrad.transforms import make_graph
from reference import flax_models
from tests.inspection.pictures import f, random_program


def labels(drawing) -> list[str]:
    return [box.label + (f" ×{box.count}" if box.count > 1 else "") for box in drawing.picture.layout.boxes[1:]]


def visible_texts(svg: str) -> str:
    return " ".join("".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


def test_values_cotangents_and_partials_are_in_the_picture() -> None:
    texts = visible_texts(explain(f)(2.0, 3.0).draw().svg)
    for piece in ("x", "c = x · y", "6.0", "ct 3.5", "∂ 3.0", "∂ 0.5", "6.693"):
        assert piece in texts


def test_a_graph_takes_names_for_its_inputs() -> None:
    drawing = draw(make_graph(f)(2.0, 3.0), names=("x", "y"))
    assert "c = x · y" in visible_texts(drawing.svg) and "∂c/∂x" in drawing.html


def test_a_value_read_twice_has_two_edges() -> None:
    drawing = explain(lambda a: a + a)(1.0).draw()
    assert drawing.svg.count('class="link"') == 2
    assert drawing.mermaid.count("-->") == 2
    assert drawing.dot.count("->") == 2


def assert_nothing_overlaps(drawing, opened=None) -> None:
    picture = drawing.picture
    opened = picture.opened if opened is None else opened
    placed = place(picture.layout, opened, picture.item_sizes, picture.closed_sizes)
    width, height = placed.size
    levels = picture.layout.levels
    for level in levels:
        if level is None or level.box not in placed.boxes:
            continue
        rectangles = []
        for kind, what in level.vertices:
            if kind == "item" and what in placed.items:
                rectangles.append((*placed.items[what], *picture.item_sizes[what]))
            elif kind == "box" and what in placed.boxes:
                rectangles.append(placed.boxes[what])
        for i, (x, y, w, h) in enumerate(rectangles):
            assert x >= -0.1 and y >= 0 and x + w <= width + 0.1 and y + h <= height + 0.1
            for ox, oy, ow, oh in rectangles[:i]:
                assert x >= ox + ow or ox >= x + w or y >= oy + oh or oy >= y + h


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in ("cnn", "lstm") else name
                                  for name in sorted(flax_models.MODELS)])
def test_models_are_drawn_without_overlaps_open_and_closed(name: str) -> None:
    loss, params, batch = flax_models.build(name, jax.random.key(0))
    drawing = draw(make_graph(loss)(params, batch))
    ElementTree.fromstring(drawing.svg)
    assert_nothing_overlaps(drawing)
    assert_nothing_overlaps(drawing, set(range(len(drawing.picture.layout.boxes))))
    assert_nothing_overlaps(drawing, set())


def test_modules_are_boxes_with_the_attribute_that_holds_them() -> None:
    loss, params, batch = flax_models.build("two_layer", jax.random.key(0))
    drawing = draw(make_graph(loss)(params, batch))
    assert {"TwoLayerClassifier", "hidden: Linear", "output: Linear"} <= set(labels(drawing))


def test_repeated_blocks_are_folded_with_their_parameters() -> None:
    loss, params, batch = flax_models.unrolled_transformer(layers=12, width=8, heads=2, batch=1, tokens=4)
    drawing = draw(make_graph(loss)(params, batch))
    assert "layer ×12" in labels(drawing)
    assert "×12" in visible_texts(drawing.svg)
    assert sum(len(level.vertices) for level in drawing.picture.layout.levels if level) < 250


def test_a_scan_is_shown_once_with_its_trip_count() -> None:
    loss, params, batch = flax_models.scanned_transformer(layers=5, width=8, heads=2, batch=1, tokens=4)
    assert "scan ×5" in " ".join(labels(draw(make_graph(loss)(params, batch))))


def test_branches_and_loops_are_boxes() -> None:
    def branching(x):
        y = lax.cond(x > 0, lambda a: jnp.sin(a) * a, lambda a: a * 3, x)
        return lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * jnp.sin(s[1])), (0, y))[1]

    found = labels(draw(make_graph(branching)(2.0)))
    assert {"cond branch 0", "cond branch 1", "while"} <= {label.split(" λ")[0] for label in found}


def test_conversions_that_change_nothing_are_left_out_unless_asked_for() -> None:
    loss, params, batch = flax_models.build("two_layer", jax.random.key(0))
    graph = make_graph(loss)(params, batch)
    few, all_of_them = draw(graph).picture, draw(graph, everything=True).picture
    assert len(all_of_them.folded.items) > len(few.folded.items)
    assert "left out" in few.note and "left out" not in all_of_them.note


def test_five_thousand_operations_give_a_small_picture() -> None:
    """How long it takes is for `python -m experiments.large_graphs` to say."""
    graph = make_graph(random_program(5000))(1.0, 2.0)
    assert len(graph) > 4900
    drawing = draw(graph)
    assert drawing.html and len(drawing.svg) < 1_000_000


@pytest.mark.slow
def test_a_hundred_thousand_operations_give_an_overview() -> None:
    drawing = draw(make_graph(random_program(100_000))(1.0, 2.0))
    assert 10 < drawing.svg.count("<rect") < 400
    assert len(drawing.html) < 20_000_000


def test_a_long_loop_is_one_block() -> None:
    def loop(x):
        for _ in range(500):
            x = jnp.sin(x) * x
        return x

    drawing = draw(make_graph(loop)(1.0))
    assert labels(drawing) == ["block ×500"]
    assert drawing.picture.folded.root.size == 1000


def test_many_links_into_one_box_do_not_make_it_wide() -> None:
    picture = draw(make_graph(random_program(3000))(1.0, 2.0)).picture  # a block of sums reads a thousand values
    assert place(picture.layout, picture.opened, picture.item_sizes, picture.closed_sizes).size[0] < 4000


def test_texts_are_escaped_and_the_page_stands_alone() -> None:
    page = explain(lambda x: jnp.where(x < 3, x, 1.0) * 2)(2.0).draw().html
    assert "</script><" not in page.split('id="data">')[1].split("</script>")[0]
    assert not re.search(r"""(src|href)=|https?://(?!www\.w3\.org)""", page)


def test_saves_by_ending(tmp_path) -> None:
    drawing = explain(f)(2.0, 3.0).draw()
    for ending, begin in ((".svg", "<svg"), (".html", "<!doctype"), (".mmd", "flowchart"), (".dot", "digraph")):
        assert drawing.save(tmp_path / f"picture{ending}").read_text(encoding="utf-8").startswith(begin)
    with pytest.raises(ValueError, match="To fix"):
        drawing.save(tmp_path / "picture.gif")
    assert "iframe" in drawing._repr_html_()


def test_what_is_no_graph_and_names_for_others_are_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="make_graph` or `explain` gave(.|\n)*To fix"):
        draw(jnp.sin)
    with pytest.raises(ValueError, match="2 names for the 1 inputs(.|\n)*To fix"):
        draw(make_graph(jnp.sin)(1.0), names=("x", "y"))


def test_edge_cases_are_drawn() -> None:
    for program, args in ((lambda x: x, (1.0,)), (lambda x: 1.0, (1.0,)), (lambda x: (x, x), (jnp.ones(3),)),
                          (lambda x: jnp.sum(x), (jnp.zeros((0, 3)),)), (lambda x: x.conj() * x, (1j,))):
        assert explain(program)(*args).draw().svg
        assert draw(make_graph(program)(*args)).html


def test_the_gradient_s_own_program_stands_beside_the_function_s() -> None:
    drawing = explain(f, backward=True)(2.0, 3.0).draw()
    texts = visible_texts(drawing.svg)
    for piece in ("forward", "backward", "pull mul", "ct_x = ct_d / x", "ct_x = ct_c · y", "ct_y = ct_c · x", "3.5"):
        assert piece in texts
    assert drawing.svg.count('class="crossing"') == 3  # log reads x; mul reads x and y
    picture = drawing.picture
    placed = place(picture.layout, picture.opened, picture.item_sizes, picture.closed_sizes)
    at = {picture.folded.items[number].name: y for number, (_, y) in placed.items.items()}
    assert at["x"] < at["e"] and at["ct_e"] > at["ct_y"]  # down on one side, up on the other
    assert_nothing_overlaps(drawing)


def a_step(x: jax.Array, y: jax.Array) -> jax.Array:
    return x - 0.1 * funcgrad.grad(f)(x, y)


@pytest.mark.parametrize("program", [funcgrad.grad(f), a_step, jax.jit(funcgrad.value_and_grad(f))],
                         ids=["grad", "step", "jit"])
def test_the_graph_of_a_program_that_takes_gradients_has_both_sides(program: Callable[..., Any]) -> None:
    graph = make_graph(program)(2.0, 3.0)
    drawing = draw(graph, names=("x", "y"))
    assert "<unknown>" not in {item.line for item in drawing.picture.folded.items}
    texts = visible_texts(drawing.svg)
    for piece in ("forward", "backward", "pull mul", "c = x · y", "d = log(x)", "e = c + d"):  # nobody reads e
        assert piece in texts
    assert {item.is_backward for item in drawing.picture.folded.items if item.output} >= {True}
    assert drawing.svg.count('class="crossing"') == (3 if program is a_step else 2)  # x, y; the step reads x again
    assert_nothing_overlaps(drawing)


def test_a_loop_and_its_backward_loop_stand_side_by_side() -> None:
    def repeated(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry) * x, None), x, None, length=5)[0]

    drawing = draw(make_graph(funcgrad.grad(repeated))(2.0), names=("x",))
    sides = {box.label: box.kind for box in drawing.picture.layout.boxes}
    assert {"forward", "backward, from below", "pull scan"} <= sides.keys()
    assert [label.startswith("scan ×5") for label in sides].count(True) == 2
    assert_nothing_overlaps(drawing)


@pytest.mark.parametrize("name", ["two_layer", pytest.param("transformer_block", marks=pytest.mark.slow)])
def test_both_programs_of_a_model_have_the_same_modules(name: str) -> None:
    loss, params, batch = flax_models.build(name, jax.random.key(0))
    drawing = explain(lambda params: loss(params, batch), backward=True)(params).draw(limit=400)
    assert labels(drawing).count("output: Linear") == 2
    ends = [item.name for item in drawing.picture.folded.items if item.output and item.is_backward]
    assert len(ends) == len(jax.tree.leaves(params))
    assert_nothing_overlaps(drawing, set(range(len(drawing.picture.layout.boxes))))
