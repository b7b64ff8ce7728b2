"""`WHOLE=1 make test` runs every row of the longest tables; without it a part stands for all."""

import os

WHOLE = "WHOLE" in os.environ
