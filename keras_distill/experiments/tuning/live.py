"""Students that go on later in the same process, so that their steps are not traced anew."""

from keras_distill._keras import seeds

PARAMETERS = 20_000_000  # of all that are kept: about 240 MB with the state of Adam
LET_GO, PIECES = 1_000_000, 8  # parameters, and pieces, after which memory is collected


class Live:
    """Compiled students between two pieces of their trainings.

    The oldest are let go where they are too large together. They go on from their files then, with
    the same numbers.

    Example:

    ```python
    live = Live()
    live.keep("001-0-2", student, distiller)
    live.take("001-0-2")  # (student, distiller)
    ```
    """

    def __init__(self):
        self._kept, self._let_go, self._pieces = {}, 0, 0

    def keep(self, key, student, model):
        """Keeps a student, and what trains it, under a key.

        A student whose traced step draws from Keras's global seeds is not kept, because the step
        would not see the seed of the next piece.
        """
        if not seeds.global_was_used():
            self._kept[key] = student, model
        while sum(each.count_params() for each, _ in self._kept.values()) > PARAMETERS:
            del self._kept[next(iter(self._kept))]

    def take(self, key):
        """The `(student, model)` of a key, which is no longer kept; `None` where there is none."""
        return self._kept.pop(key, None)

    def clear(self):
        """Lets all go."""
        self._kept.clear()

    def trained(self, student):
        """Counts a piece that was trained, for `is_due`."""
        self._let_go += student.count_params()
        self._pieces += 1

    def is_due(self):
        """Whether memory is to be collected; a full collection takes as long as small epochs."""
        due = self._let_go > LET_GO or self._pieces >= PIECES
        if due:
            self._let_go = self._pieces = 0
        return due
