"""`python -m keras_distill`."""

import sys

from keras_distill.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
