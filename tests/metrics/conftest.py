"""The backends' means are those of the losses' tests."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "losses"))
