"""``python -m experiments.two_layer``."""

import sys

from experiments.two_layer.command import main

if __name__ == "__main__":
    sys.exit(main())
