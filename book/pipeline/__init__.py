"""From `notebooks/*.py` to the pages of the book: pair, execute, build, scan.

Each stage is one command of `python -m book.pipeline` and one module here. The rule behind them: a page shows the
outputs of exactly its source. The outputs live in `.cache/executed/`, beside a manifest of everything they depend on
(`runs`), and no stage writes to a tracked file except `pair`, which writes the notebooks that Colab and Jupyter open.
"""

import sys

# A notebook's schema has no use for it, and reading its grammar of addresses takes every process a second.
sys.modules.setdefault("rfc3987_syntax", None)
