"""Keeps students that continue later in the same process, so that their steps are traced once."""

from keras_distill._keras import seeds

PARAMETERS = 20_000_000  # of all kept students: about 240 MB with the state of Adam
LET_GO, PIECES = 1_000_000, 8  # parameters and pieces after which memory is collected


class Live:
    """Compiled students between two pieces of their trainings.

    If they are too large together, the oldest are dropped. These continue from their files, with
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
        """Keeps a student, and the model that trains it, under a key.

        A student whose traced step draws from Keras's global seeds is not kept, because the step
        would not see the seed of the next piece.
        """
        if not seeds.global_was_used():
            self._kept[key] = student, model
        while sum(each.count_params() for each, _ in self._kept.values()) > PARAMETERS:
            del self._kept[next(iter(self._kept))]

    def take(self, key):
        """Returns the `(student, model)` of a key and forgets it, or `None` if there is none."""
        return self._kept.pop(key, None)

    def clear(self):
        """Drops all students."""
        self._kept.clear()

    def trained(self, student):
        """Counts a trained piece, for `is_due`."""
        self._let_go += student.count_params() if student.built else 0
        self._pieces += 1

    def is_due(self):
        """Whether to collect memory; a full collection takes as long as small epochs."""
        due = self._let_go > LET_GO or self._pieces >= PIECES
        if due:
            self._let_go = self._pieces = 0
        return due
