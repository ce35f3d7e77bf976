"""The generated pages are fresh."""

from experiments import tables


def test_the_page_of_primitives_is_fresh() -> None:
    assert tables.PAGE.read_text() == tables.page(), "run `python -m experiments.tables`"
