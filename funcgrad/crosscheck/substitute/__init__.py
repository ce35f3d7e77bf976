"""funcgrad in the place of JAX's reverse mode, in a block of code.

`block` puts the names in place, `session` is what a block counts and finds. A gradient that is taken inside goes
through `calls`, which lets both sides take it; `comparison` compares the answers, with `agreement` at first sight,
with `judge` more closely. `program` is the function, to be run again later, `rules` the custom rules that it called;
`rewind` gives it a second run like the first.
"""

from funcgrad.crosscheck.substitute.block import ORIGINALS, paused, substitute
from funcgrad.crosscheck.substitute.session import Figures, Record

__all__ = ["ORIGINALS", "Figures", "Record", "paused", "substitute"]
