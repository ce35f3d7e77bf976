"""What strong zeros cost, as the page says: equations and FLOPs; times have noise and are not compared."""

import pytest

from experiments import strong_zeros as prices


@pytest.mark.slow
def test_the_table_of_prices_is_that_of_the_present_code() -> None:
    page = prices.PAGE.read_text(encoding="utf-8")
    for name, program in prices.workloads().items():
        assert f"| {name} | {prices.counts(*program)} | " in page
