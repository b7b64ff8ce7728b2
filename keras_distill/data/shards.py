"""The files of a cache, at any path that `tf.io.gfile` knows.

    header.json                       the form of the targets, and their origin
    targets-PART-of-PARTS-00000.tfrecord
    targets-PART-of-PARTS-00000.index one line of JSON, then the rows in the order of their keys
    part-PART-of-PARTS.json           the shards of a complete part, with their checksums

A shard counts once its `.tfrecord` has its name: it is renamed last. A kill may cut off everything
else at any moment, which is then written again. One part has one writer at a time.
"""

import io
import itertools
import json
import zlib

import numpy as np

from keras_distill import _files
from keras_distill._backend import tensorflow

tf = tensorflow("A cache of targets")

HEADER = "header.json"
SHARD = {"name": str, "rows": int, "bytes": int, "checksum": int, "cache": str}  # in an index
PART = {"cache": (str, type(None)), "shards": list}  # in a part's list
ROW = np.dtype([("key", "<i8"), ("hash", "<i8"), ("offset", "<i8"), ("size", "<i4"),
                ("crc", "<u4")])  # fmt: skip
LARGEST = 64 * 2**20  # bytes of a shard in memory before they are written
BEFORE, AFTER = 12, 4  # bytes of a TFRecord around the data: its length, and checksums


class Writer:
    """Collects records, and writes a shard when there are enough."""

    def __init__(self, folder, identity, part, parts, rows_per_shard):
        self.folder, self.identity, self.rows_per_shard = folder, identity, rows_per_shard
        self.name = f"{part}-of-{parts}"
        self.shards = []
        self._numbers = itertools.count()
        self._records, self._rows, self._size = [], [], 0
        self._clear()

    @property
    def done(self):
        """The number of rows in written shards."""
        return sum(shard["rows"] for shard in self.shards)

    def resume(self):
        """Yields the index of every shard that an earlier run has finished; deletes the others."""
        for name in listed(self.folder, f"targets-{self.name}-", ".tfrecord"):
            shard, rows = self._finished(name)
            if shard is None:
                _files.remove(join(self.folder, name))
            else:
                self.shards.append(shard)
                yield rows

    def _finished(self, name):
        """Returns the result of `read_index`, or `(None, None)` for a shard to write again."""
        path = join(self.folder, name)
        try:
            shard, rows = read_index(index_of(path))
        except (ValueError, OSError, tf.errors.NotFoundError):
            return None, None
        if shard["cache"] != self.identity:
            raise ValueError(f"{path} is a shard of another cache. Delete it.")
        same = _files.size_of(path) == shard["bytes"]
        return (shard, rows) if same else (None, None)

    def add(self, key, hash, record):
        """Adds one serialized record."""
        self._rows.append((key, hash, self._size + BEFORE, len(record), zlib.crc32(record)))
        self._records.append(record)
        self._size += BEFORE + len(record) + AFTER
        if len(self._rows) >= self.rows_per_shard or self._size >= LARGEST:
            self.flush()

    def flush(self):
        """Writes the collected records as one shard: its index, then its records, then the name."""
        if not self._rows:
            return
        rows = np.array(self._rows, ROW)
        rows = rows[np.argsort(rows["key"], kind="stable")]
        name = self._free()
        shard = {
            "name": f"{name}.tfrecord", "rows": len(rows), "bytes": self._size,
            "checksum": checksum(rows), "cache": self.identity,
        }  # fmt: skip
        path = join(self.folder, name)
        _files.write(f"{path}.index", json.dumps(shard).encode() + b"\n" + rows.tobytes())
        with _files.whole(f"{path}.tfrecord") as part, tf.io.TFRecordWriter(part) as writer:
            for record in self._records:
                writer.write(record)
        self.shards.append(shard)
        self._records, self._rows, self._size = [], [], 0

    def finish(self):
        """Writes the last shard, and the list of shards, which marks the part as complete."""
        self.flush()
        found = {"cache": self.identity, "shards": self.shards}
        _files.write_json(join(self.folder, f"part-{self.name}.json"), found)

    def _free(self):
        taken = {shard["name"] for shard in self.shards}
        names = (f"targets-{self.name}-{number:05d}" for number in self._numbers)
        return next(name for name in names if f"{name}.tfrecord" not in taken)

    def _clear(self):
        for name in listed(self.folder, _files.UNFINISHED, ""):
            if f"-{self.name}-" in name or f"-{self.name}." in name:
                _files.remove(join(self.folder, name))


class Seen:
    """The keys that were written, in sorted runs of growing size, 16 bytes each."""

    def __init__(self):
        self.runs = []

    def find(self, keys):
        """Returns `(known, hashes)` of keys (n,): whether each was written, and with which hash."""
        known, hashes = np.zeros(len(keys), bool), np.zeros(len(keys), "int64")
        for run in self.runs:
            at = np.minimum(np.searchsorted(run["key"], keys), len(run) - 1)
            here = run["key"][at] == keys
            known |= here
            hashes[here] = run["hash"][at[here]]
        return known, hashes

    def add(self, keys, hashes):
        """Adds keys and the hashes of their inputs, (n,) each."""
        run = np.empty(len(keys), [("key", "<i8"), ("hash", "<i8")])
        run["key"], run["hash"] = keys, hashes
        while self.runs and len(self.runs[-1]) <= len(run):
            run = np.concatenate([self.runs.pop(), run])
        if len(run):
            self.runs.append(run[np.argsort(run["key"], kind="stable")])


def checksum(rows):
    """Returns one number for all rows of an index, and so for the records that they describe."""
    return zlib.crc32(rows.view("uint8"))


def read_index(path, rows=None):
    """Returns `(shard, rows)`: the description of a shard in its index, and its rows by key.

    If an array for the `rows` is given, it is filled without a copy.
    """
    with _opened(path) as file:
        shard = _files.parsed(path, file.readline())
        check_shard(path, shard)
        check_rows(path, shard)
        rows = np.empty(shard["rows"], ROW) if rows is None else rows
        full = file.readinto(rows.view("uint8")) == rows.nbytes
    if not full or checksum(rows) != shard["checksum"]:
        raise ValueError(f"{path} is damaged. Its checksum differs. Write the cache again.")
    return shard, rows


def check_shard(path, shard):
    """Raises an error unless a file describes a shard as a `Writer` does."""
    _files.check_fields(path, shard, SHARD)
    if min(shard["rows"], shard["bytes"]) < 0:
        raise ValueError(f"{path} is damaged. It has negative sizes. Write the cache again.")


def check_rows(path, shard):
    """Raises an error for an index that is too short for its rows, before memory is allocated."""
    if shard["rows"] * ROW.itemsize > _files.size_of(path):
        raise ValueError(f"{path} is damaged. It is cut off. Write the cache again.")


def _opened(path):
    """Opens a local file as it is, another as a copy in memory, which can fill arrays too."""
    file = _files.opened(path)
    if hasattr(file, "readinto"):
        return file
    with file:
        return io.BytesIO(file.read())


def join(folder, name):
    return f"{str(folder).rstrip('/')}/{name}"


def in_use(folder, part, parts):
    """Returns the path of the file that the writer of a part locks."""
    return join(folder, f".in-use-{part}-of-{parts}")


def index_of(path):
    """Returns the path of the index of a shard."""
    return f"{path.removesuffix('.tfrecord')}.index"


def listed(folder, prefix, suffix):
    """Returns the sorted names in a folder with this prefix and suffix; none without the folder."""
    names = _files.names_in(folder)
    return [name for name in names if name.startswith(prefix) and name.endswith(suffix)]
