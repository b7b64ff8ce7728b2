"""Writes a cache by an Apache Beam pipeline: runs the parts of `write_targets` on many workers."""

from typing import Any


def write_targets_with_beam(
    teacher: Any, dataset: Any, path: str, *, parts: int, options: Any = None, **arguments
) -> Any:
    """Runs `write_targets` for every part of a cache, on the workers of a Beam pipeline.

    The records are those that `write_targets(..., shard="i/n")` writes. If a part fails and is
    tried again, it continues after its last complete shard.

    Args:
        teacher: a function without arguments that makes or loads the teacher on each worker, or the
            path of a `.keras` file that each worker can read.
        dataset: a function `(part, parts)` that returns the batches of one part.
        path: the folder to write, which all workers can reach, such as "gs://bucket/targets".
        parts: how many parts there are.
        options: Beam's pipeline options: a list of flags, such as `["--runner=DataflowRunner"]`,
            or a `PipelineOptions`. Defaults to Beam's `DirectRunner`.
        **arguments: as in `write_targets`.

    Returns:
        The open `TargetsOnDisk`.

    Raises:
        ImportError: if Apache Beam is not installed. Run `pip install "keras-distill[beam]"`.
        TypeError: if `dataset` is not a function.
        ValueError: for the same reasons as `write_targets`.

    Example:

    ```python
    def digits(part, parts):  # each worker imports what it needs
        import tensorflow as tf

        files = tf.data.Dataset.list_files("gs://bucket/digits-*", shuffle=False)
        return tf.data.TFRecordDataset(files.shard(parts, part)).map(parsed).batch(64)

    write_targets_with_beam("gs://bucket/teacher.keras", digits, "gs://bucket/targets", parts=100,
                            dtype="float32", options=["--runner=DataflowRunner"])
    distiller = Distiller(student, teacher=CachedTeacher())
    distiller.compile("adam", loss)
    distiller.fit(read_targets(digits(0, 1), "gs://bucket/targets"), epochs=20)
    ```
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError(
            'Apache Beam is not installed. Run `pip install "keras-distill[beam]"`.'
        ) from error
    from keras_distill.data.targets_on_disk import TargetsOnDisk

    if not callable(dataset):
        raise TypeError(
            "`dataset` must be a function `(part, parts)` that returns the batches of a part. "
            f"Received: dataset={dataset!r}"
        )
    options = options if isinstance(options, PipelineOptions) else PipelineOptions(options or [])
    with beam.Pipeline(options=options) as pipeline:
        numbers = pipeline | beam.Create(range(parts)) | beam.Reshuffle()
        numbers | beam.Map(_write_part, parts, teacher, dataset, str(path), arguments)
    return TargetsOnDisk(path)


def _write_part(part, parts, teacher, dataset, path, arguments):
    """Writes one part on a worker, which imports what it needs."""
    import keras

    from keras_distill.data.target_cache import write_targets

    if isinstance(teacher, str):
        teacher = keras.saving.load_model(teacher, compile=False)
    else:
        teacher = teacher()
    arguments = {"verbose": 0, **arguments, "shard": f"{part}/{parts}"}
    write_targets(teacher, dataset, path, **arguments)
