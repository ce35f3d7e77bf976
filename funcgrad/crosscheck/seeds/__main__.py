"""Write `docs/seeds.md` from running the corpus: ``python -m funcgrad.crosscheck.seeds``."""

from pathlib import Path

from funcgrad.crosscheck.seeds.corpus import page, run_seeds

if __name__ == "__main__":
    Path("docs/seeds.md").write_text(page(run_seeds()), encoding="utf-8")
