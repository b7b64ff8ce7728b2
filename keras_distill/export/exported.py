"""Writes one format under a temporary name, checks it, and renames it if it passes."""

import dataclasses
import os

import keras

from keras_distill.export import parity, places, reload, unfinished
from keras_distill.export.formats import FORMATS
from keras_distill.export.given import with_batch
from keras_distill.export.saved_model import by_name
from keras_distill.export.serving_folder import ServingFolder
from keras_distill.export.signature import signature_of


@dataclasses.dataclass(frozen=True)
class Exported:
    """One exported model that passed its check.

    Args:
        format: `"serving"`, `"litert"`, `"onnx"` or `"openvino"`.
        path: The file or folder.
        quantize: How it is quantized, `"none"` for floats.
        batch: The batch size that it takes, or `None` if it takes any.
        examples: How many examples were compared.
        real: Whether the examples were given. Otherwise they were random.
        size_bytes: The size on disk, in bytes.
        parity: A `Parity`, the result of the comparison.
        note: What the model needs beside the format's runtime. Empty if nothing.

    Example:

    ```python
    for exported in export.write(student, "served", ["serving"], inputs=x):
        print(exported.path, exported.size_bytes, exported.parity.difference)
    ```
    """

    format: str
    path: str
    quantize: str
    batch: int | None
    examples: int
    real: bool
    size_bytes: int
    parity: parity.Parity
    note: str = ""

    def __str__(self):
        kind = "example" if self.real else "random example"
        found = [f"differs by at most {self.parity.difference:.1e} over {self.examples} {kind}s"]
        if self.parity.agreement is not None and self.quantize != "none":
            found.append(f"{self.parity.agreement:.2%} of the answers agree")
        if self.parity.metric:
            name = self.parity.metric.replace("_", " ")
            found.append(
                f"{name} {self.parity.exported:.4f}, the student's {self.parity.student:.4f}"
            )
        if self.batch:
            found.append(f"takes batches of {self.batch}")
        how = "" if self.quantize == "none" else f"{self.quantize}, "
        said = f"{self.path}: {how}{self.size_bytes:,} bytes, reloaded, {'; '.join(found)}."
        return f"{said} {self.note}".strip()


@dataclasses.dataclass(frozen=True)
class Job:
    """A student, and the data for the comparison with its exported models.

    Args:
        student: A built `keras.Model`.
        given: The inputs, a dict of arrays by input name.
        expected: The student's outputs for them.
        targets: The true answers, or `None`.
        calibration: Inputs to calibrate on, as `given`.
        real: Whether `given` was given; otherwise it is random.
        agreement: The smallest agreement of a quantized model.
        batch: A fixed batch size, or `None`.
        served: The `ServingFolder`, or `None` if none is asked for.
    """

    student: keras.Model
    given: dict
    expected: object
    targets: object
    calibration: dict
    real: bool
    agreement: float
    batch: int | None
    served: ServingFolder | None

    def run(self, kind, path, quantize):
        """Exports to one format; returns an `Exported`.

        Raises:
            ValueError: If the format cannot hold the student, or the written model did not pass.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with unfinished.folder_in(os.path.dirname(path)) as folder:
            with places.plain(folder) as plain:
                part = os.path.join(plain, os.path.basename(path))
                write = self._serving if kind == "serving" else self._converted
                batch, found, wrong = write(kind, part, quantize)
            part = os.path.join(folder, os.path.basename(path))
            if wrong is None:
                os.rename(part, path)
                count, size = len(next(iter(self.given.values()))), size_of(path)
                note = self.served.note if kind == "serving" else ""
                return Exported(kind, path, quantize, batch, count, self.real, size, found, note)
            if not os.path.lexists(part):
                raise ValueError(f"The model could not be exported: {wrong}")
            failed = places.failed(path)
            os.rename(part, failed)
        raise ValueError(
            f"The exported model did not pass its check: {wrong} It is kept in "
            f"{failed!r}, which no server loads."
        )

    def _serving(self, kind, part, quantize):
        self.served.write(part)
        try:
            outputs = reload.outputs_of("serving", part, self.given)
            found = parity.compared(outputs, self.expected, self.targets)
        except (RuntimeError, ValueError) as error:
            return None, None, f"{error}."
        allowed = parity.tolerance(by_name(self.expected))
        return None, found, parity.judged(found, True, allowed, self.agreement)

    def _converted(self, kind, part, quantize):
        """Converts for any batch size, or for 1 if LiteRT takes no other."""
        tried = [None, 1] if self.batch is None and kind == "litert" else [self.batch]
        for batch in tried:
            last = batch == tried[-1]
            try:
                signature = with_batch(signature_of(self.student), batch)
                FORMATS[kind].write(self.student, part, signature, quantize=quantize,
                                    calibration=self.calibration)  # fmt: skip
                outputs = reload.outputs_of(kind, part, self.given)
                found = parity.compared(outputs, self.expected, self.targets)
            except RuntimeError as error:  # the runtime refused it
                if last:
                    return batch, None, f"{error}."
            except ValueError:  # the converter refused it
                if last:
                    raise
            else:
                allowed = parity.tolerance(by_name(self.expected))
                wrong = parity.judged(found, quantize == "none", allowed, self.agreement)
                if wrong is None or last:
                    return batch, found, wrong


def size_of(path):
    """Returns the size of a file, or of all files in a folder, in bytes."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return sum(map(os.path.getsize, files))
