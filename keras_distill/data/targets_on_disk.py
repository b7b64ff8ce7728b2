"""An open cache: its rows, and their records by key."""

import functools
import json
import os
import shutil
import tempfile
import threading
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from os import PathLike

import numpy as np

from keras_distill import _files
from keras_distill._backend import tensorflow
from keras_distill.data import fingerprints, records, shards
from keras_distill.data.header import FIELDS, FORMAT

tf = tensorflow("A cache of targets")

SEEKING = threading.Lock()


class TargetsOnDisk:
    """A cache of targets, open for reading. Its index takes 48 bytes per row in memory.

    The first look-up sorts the rows by their keys.

    Args:
        path: the folder that `write_targets` wrote, local or any that `tf.io.gfile` knows. Remote
            shards are copied when they are first needed.

    Raises:
        FileNotFoundError: if there is no cache, it is incomplete, or a shard is missing.
        ValueError: if a shard is truncated or belongs to another cache. The error names it.

    Example:

    ```python
    print(data.TargetsOnDisk("targets").summary())
    ```
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = os.fspath(path)
        self.header = _header(self.path)
        self.identity = identity(self.header)
        listed = self._listed()
        self._check_files(listed)
        self.shards = [shard for _, shard in listed]
        self._open()
        self.forms = {
            path: records.form(path, config) for path, config in self.header["paths"].items()
        }

    @property
    def rows(self):
        """The number of rows."""
        return len(self.index)

    @property
    def size(self):
        """The bytes of all shards."""
        return sum(shard["bytes"] for shard in self.shards)

    def summary(self):
        """Returns a description of the cache in several lines."""
        lines = [
            f"{self.path}: {self.rows:,} rows in {len(self.shards)} shards, {self.size:,} bytes "
            f"({self.size / max(1, self.rows):,.1f} per row)"
        ]
        for path, form in self.forms.items():
            details = ", ".join(f"{name} {value}" for name, value in form.config().items())
            lines.append(f"  {path}: {details}; {form.bytes_a_row:,} bytes per row")
        for name in ("inputs", "key", "views", "augment", "fingerprints", "versions"):
            lines.append(f"  {name}: {self.header[name]}")
        return "\n".join(lines)

    def lookup(self, keys, hashes):
        """Returns the serialized records of keys (n,), whose inputs have these hashes (n,)."""
        at = np.minimum(self._places(keys), self.rows - 1)
        missing = self.keys[at] != keys
        if missing.any():
            raise KeyError(
                f"{self.path} has no targets for {missing.sum()} of {len(keys)} examples (the "
                f"first at row {missing.argmax()}). Read the inputs that were cached, with the "
                "same preprocessing. If a random augmentation runs before `read_targets`, give it "
                "to `write_targets` as `augment`, with `views`."
            )
        at = self.order[at]
        rows = self.index[at]
        other = rows["hash"] != hashes
        if other.any():
            raise ValueError(
                f"The input of key {keys[other.argmax()]} differs from the one whose targets "
                f"{self.path} holds. Use the same preprocessing. If a random augmentation runs "
                "before `read_targets`, give it to `write_targets` as `augment`."
            )
        return np.array([self._record(*row) for row in zip(self._owners(at).tolist(),
                         *(rows[name].tolist() for name in ("offset", "size", "crc")))],
                        dtype=object)  # fmt: skip

    @functools.cached_property
    def order(self):
        """Returns the rows sorted by key."""
        return np.argsort(self.index["key"], kind="stable")  # fast for rows in sorted runs

    @functools.cached_property
    def keys(self):
        """Returns all keys, sorted."""
        return self.index["key"][self.order]

    def _owners(self, rows):
        """Returns the shard number of rows of the index."""
        return np.searchsorted(self.ends, rows, side="right")

    def _places(self, keys):
        """Returns the positions of keys among all; looking them up in order is faster."""
        by_key = np.argsort(keys)
        places = np.empty_like(by_key)
        places[by_key] = np.searchsorted(self.keys, keys[by_key])
        return places

    def verify(self):
        """Reads every record of every shard.

        Raises:
            ValueError: if a shard's records differ from the written ones. The error names it.
        """
        owners = self._owners(np.arange(self.rows)).tolist()
        for number, row in zip(owners, self.index):
            self._record(number, *(int(row[name]) for name in ("offset", "size", "crc")))
        for number, shard in enumerate(self.shards):
            if self._framed(number) != shard["rows"]:
                raise ValueError(
                    f"{shard['name']} in {self.path} is damaged. The bytes around its records are "
                    "not those that were written. Write the cache again."
                )

    def check(self, expected):
        """Raises an error for a cache whose header differs from the `expected` entries."""
        found = []
        for name, value in expected.items():
            found += _files.differences(self.header[name], value, name)
        if found:
            raise ValueError(f"{self.path} was written with other settings ({'; '.join(found)}).")

    def _record(self, number, offset, size, crc):
        data = _bytes(self._shard(self._local(number)), offset, size)
        if zlib.crc32(data) != crc:
            raise ValueError(
                f"{self.shards[number]['name']} in {self.path} is damaged or belongs to another "
                "cache. The checksum of a record differs. Delete the shard and write the cache "
                "again."
            )
        return data

    def _framed(self, number):
        """Returns how many records TensorFlow finds in a shard; it checks the bytes around them."""
        records = tf.data.TFRecordDataset(self._local(number))
        try:
            return int(records.reduce(np.int64(0), lambda count, _: count + 1))
        except tf.errors.DataLossError:
            return None

    # Opening

    def _listed(self):
        """Returns the shards in the lists of all parts, each with the name of its list."""
        parts, listed = self.header["parts"], []
        for part in range(parts):
            name = f"part-{part}-of-{parts}.json"
            path = shards.join(self.path, name)
            content = _files.read_json(path, shards.PART)
            if content is None:
                raise FileNotFoundError(
                    f"{self.path} is incomplete. Part {part} of {parts} was not finished (it has "
                    f"no {name}). Run the same `write_targets` again to continue."
                )
            if content["shards"] and content["cache"] != self.identity:
                raise ValueError(
                    f"{name} in {self.path} belongs to another cache, or {shards.HEADER} is "
                    "damaged. Write the cache again."
                )
            for shard in content["shards"]:
                shards.check_shard(path, shard)
                listed.append((name, shard))
        return listed

    def _check_files(self, listed):
        there = {*shards.listed(self.path, "", ".tfrecord")}
        missing = [f"{shard['name']} (in {part})" for part, shard in listed
                   if shard["name"] not in there]  # fmt: skip
        if missing:
            raise FileNotFoundError(
                f"{self.path} lacks the shards {', '.join(missing)}. Write the cache again."
            )
        if foreign := sorted(there - {shard["name"] for _, shard in listed}):
            raise ValueError(
                f"{self.path} holds shards of another cache, {', '.join(foreign)}. Delete them."
            )
        names = [shard["name"] for _, shard in listed]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"{self.path} lists the shards {', '.join(doubled)} twice. Write the cache again."
            )
        for _, shard in listed:
            path = shards.join(self.path, shard["name"])
            shards.check_rows(shards.index_of(path), shard)
            size = _files.size_of(path)
            if size != shard["bytes"]:
                raise ValueError(
                    f"{shard['name']} in {self.path} has {size} bytes instead of "
                    f"{shard['bytes']}. It is truncated or belongs to another cache. Delete it, "
                    "and write the cache again."
                )

    def _open(self):
        counts = [shard["rows"] for shard in self.shards]
        if not sum(counts):
            raise ValueError(
                f"{self.path} holds no rows, according to its {shards.HEADER} and its parts."
            )
        self.index = np.empty(sum(counts), shards.ROW)
        self.ends = np.cumsum(counts)
        places = np.split(self.index, self.ends[:-1])
        with ThreadPoolExecutor() as pool:  # reading and checksums release Python's lock
            list(pool.map(self._load, self.shards, places))
        self._shard = functools.lru_cache(_open_files())(_opened)
        self._files, self._copies, self._lock = {}, None, threading.Lock()

    def _load(self, shard, place):
        path = shards.index_of(shards.join(self.path, shard["name"]))
        described, _ = shards.read_index(path, place)
        if described != shard:
            raise ValueError(
                f"{path} describes another shard. Delete it, and write the cache again."
            )

    def _local(self, number):
        """Returns the local file of a shard; a remote one is copied once."""
        if number not in self._files:
            name = self.shards[number]["name"]
            path = shards.join(self.path, name)
            self._files[number] = path if os.path.exists(path) else self._copied(path, name)
        return self._files[number]

    def _copied(self, path, name):
        with self._lock:
            if self._copies is None:
                self._copies = tempfile.mkdtemp(prefix="targets-")
                weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        copy = os.path.join(self._copies, name)
        with _files.whole(copy) as part:  # others may copy it at the same time
            tf.io.gfile.copy(path, part, overwrite=True)
        return copy


def _header(path):
    """Returns the content of a cache's `header.json`."""
    file = shards.join(path, shards.HEADER)
    header = _files.read_json(file, {"format": int})
    if header is None:
        raise FileNotFoundError(f"{path} holds no cache of targets. It has no {shards.HEADER}.")
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} has the format {header['format']}, but this version reads format {FORMAT}. "
            "Write the cache again."
        )
    _files.check_fields(file, header, FIELDS)
    return header


def _opened(path):
    return open(path, "rb", buffering=0)


def _bytes(file, offset, size):
    """Returns bytes of an open file, fewer if it was cut off since. Threads may share the file.

    A memory map would end the process in that case.
    """
    if hasattr(os, "pread"):  # not on Windows
        return os.pread(file.fileno(), size, offset)
    with SEEKING:
        file.seek(offset)
        return file.read(size)


def _open_files():
    """Returns how many shards a cache holds open: a quarter of what a process may."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 4096
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**16 if limit == resource.RLIM_INFINITY else max(1, limit // 4)


def identity(header):
    """Returns a short name of a cache, a digest of its header."""
    return fingerprints.digest(json.dumps(header, sort_keys=True))
