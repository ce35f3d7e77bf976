"""The page of a drawing in a real browser."""

import jax
import pytest

from funcgrad.inspection import draw, explain
from funcgrad.transforms import make_graph
from reference import flax_models
from tests.browser import chromium, note_failures
from tests.inspection.pictures import f


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def show(browser, tmp_path):
    """Open a drawing's page; at the end no script may have failed."""
    errors: list[str] = []
    pages = []

    def opened(drawing, **options):
        page = browser.new_page(viewport={"width": 1100, "height": 800}, **options)
        note_failures(page, errors)
        page.goto(drawing.save(tmp_path / "page.html").as_uri())
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not errors


def test_steps_forward_and_backward_with_the_arithmetic_spelled_out(show) -> None:
    page = show(explain(f)(2.0, 3.0).draw())
    told = []
    page.keyboard.press("Home")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
        told.append(page.inner_text("#story"))
    assert "c = x · y = 2.0 · 3.0 = 6.0" in told[0]
    assert "log(2.0) = 0.6931" in told[1]
    assert "ct_c += 1.0 · 1.0" in told[3] and "ct_d += 1.0 · 1.0" in told[3]
    assert "ct_x += 0.5 · 1.0" in told[4]
    assert "ct_x += 3.0 · 1.0" in told[5] and "complete" in told[5]


def test_a_cotangent_appears_when_all_of_it_has_arrived(show) -> None:
    page = show(explain(f)(2.0, 3.0).draw())

    def ct_of_x() -> str:
        return page.evaluate("getComputedStyle(document.querySelector('[data-item=\"0\"] .ct')).visibility")

    page.click("#first")
    seen = []
    for _ in range(6):
        page.click("#next")
        seen.append(ct_of_x())
    assert seen == ["hidden"] * 5 + ["visible"]


def test_boxes_open_and_close_by_mouse_and_keyboard(show) -> None:
    loss, params, batch = flax_models.build("two_layer", jax.random.key(0))
    page = show(draw(make_graph(loss)(params, batch)))

    def shown() -> int:
        return page.locator("[data-item]").count()

    before = shown()
    page.click("#close-all")
    assert shown() < before
    box = page.locator('[data-box][aria-expanded="false"]').first
    box.focus()
    page.keyboard.press("Enter")
    assert page.locator('[data-box][aria-expanded="true"]').count() == 1
    page.keyboard.press("Enter")
    page.locator('[data-box][aria-expanded="false"] .boxlabel').first.click()
    assert page.locator('[data-box][aria-expanded="true"]').count() == 1
    page.click("#open-all")
    assert shown() >= before


def test_pans_and_zooms(show) -> None:
    page = show(explain(f)(2.0, 3.0).draw())

    def transform() -> str:
        return page.get_attribute("#scene", "transform")

    seen = {transform()}
    page.mouse.move(500, 150)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(50)
    seen.add(transform())
    page.mouse.down()
    page.mouse.move(560, 220, steps=3)
    page.mouse.up()
    seen.add(transform())
    page.keyboard.press("+")
    seen.add(transform())
    page.keyboard.press("Shift+ArrowRight")
    seen.add(transform())
    assert len(seen) == 5


def test_dark_where_the_screen_is(show) -> None:
    drawing = explain(f)(2.0, 3.0).draw()
    colours = [show(drawing, color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
               for scheme in ("light", "dark")]
    assert colours[0] == "rgb(255, 255, 255)" and colours[1] != colours[0]


def test_the_page_places_things_where_the_still_picture_does(show) -> None:
    drawing = explain(f)(2.0, 3.0).draw()
    page = show(drawing)
    widths = page.evaluate("placed.sizes[0]")
    from funcgrad.inspection.placement import place

    picture = drawing.picture
    wanted = place(picture.layout, picture.opened, picture.item_sizes, picture.closed_sizes)
    assert widths == pytest.approx(wanted.size)
    corners = page.evaluate("placed.items")
    assert {int(n): tuple(xy) for n, xy in corners.items()} == {n: pytest.approx(xy) for n, xy in wanted.items.items()}


def test_both_programs_are_stepped_through_once(show) -> None:
    page = show(explain(f, backward=True)(2.0, 3.0).draw())
    page.keyboard.press("Home")
    told = []
    for _ in range(7):
        page.keyboard.press("ArrowRight")
        told.append(page.inner_text("#story"))
    assert "ct_x = ct_c · y = 1.0 · 3.0 = 3.0" in "".join(told)
    assert "ct_x = 0.5 + 3.0 = 3.5" in told[-1]
    assert page.locator(".crossing").count() == 3
