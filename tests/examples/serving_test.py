"""The stand-in of TF Serving, its clients, the load test, and the program in C."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest

from keras_distill import export

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "serving"
IMAGES = np.random.default_rng(0).random((24, 6, 5, 3)).astype("float32")


@pytest.fixture(scope="module", autouse=True)
def _in_path():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


def network(units):
    keras.utils.set_random_seed(units)
    x = inputs = keras.Input((6, 5, 3), name="image")
    x = keras.layers.Dense(units, "relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x), name="net")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The models by name, and their folder."""
    folder = tmp_path_factory.mktemp("served")
    models = {"student": network(2), "teacher": network(16)}
    for name, model in models.items():
        export.write(model, folder, name=name, inputs=IMAGES, labels=["a", "b", "ç"])
    return models, folder


def started(folder, *arguments):
    """A server's process and what it says of its ports, a line each."""
    command = [sys.executable, str(FOLDER / "server.py"), f"--models={folder}", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    lines = [process.stdout.readline().split()[-1] for _ in arguments]
    return process, lines


@pytest.fixture(scope="module")
def url(served):
    process, (url,) = started(served[1], "--rest=0")
    yield url
    process.kill()
    process.communicate()


def asked(url, path, request=None):
    """`(status, response)` of a request that holds JSON."""
    body = None if request is None else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, body), timeout=60) as got:
            return got.status, json.loads(got.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_rest_takes_rows_and_columns_as_tf_serving_does(served, url):
    right = served[0]["student"].predict(IMAGES[:3], verbose=0)
    path = "/v1/models/student:predict"
    rows = [{"image": each.tolist()} for each in IMAGES[:3]]
    for instances in (rows, IMAGES[:3].tolist()):
        status, found = asked(url, path, {"instances": instances})
        assert status == 200
        np.testing.assert_allclose(found["predictions"], right, atol=1e-5)
    status, found = asked(url, path, {"inputs": {"image": IMAGES[:3].tolist()}})
    np.testing.assert_allclose(found["outputs"], right, atol=1e-5)
    status, found = asked(url, path, {"instances": rows, "signature_name": "classify"})
    assert [{*each} for each in found["predictions"]] == [{"classes", "scores"}] * 3
    assert found["predictions"][0]["classes"][0] == ["a", "b", "ç"][right[0].argmax()]
    assert asked(url, "/v1/models/student")[1]["model_version_status"][0]["version"] == "1"
    assert asked(url, "/v1/models/student/versions/1:predict", {"instances": rows})[0] == 200


def test_what_is_wrong_is_said_with_the_status_of_tf_serving(url):
    path = "/v1/models/student:predict"
    assert asked(url, "/v1/models/nobody:predict", {"instances": []})[0] == 404
    assert asked(url, "/v1/models/..:predict", {"instances": []})[0] == 404
    assert asked(url, "/v1/models/student/versions/7:predict", {"instances": []})[0] == 404
    status, found = asked(url, path, {"instances": [[1.0, 2.0]]})
    assert status == 400 and found["error"]
    assert asked(url, path, {"inputs": {"x": [1]}})[0] == 400
    status, found = asked(url, path, {"inputs": [1], "signature_name": "none"})
    assert status == 400 and "'none' not found" in found["error"]


def test_the_client_sends_arrays_and_files_of_images(served, url):
    import tensorflow as tf
    from client import Rest

    client = Rest(url, "teacher")
    right = served[0]["teacher"].predict(IMAGES, verbose=0)
    np.testing.assert_allclose(client.predict(IMAGES), right, atol=1e-5)
    np.testing.assert_allclose(client.predict({"image": IMAGES[:2]}), right[:2], atol=1e-5)
    pixels = np.full((6, 5, 3), 102, "uint8")
    found = client.predict({"images": [tf.io.encode_png(pixels).numpy()]}, "image_bytes")
    logits = served[0]["teacher"](pixels[None] / np.float32(255)).numpy()
    assert found["classes"][0, 0] == ["a", "b", "ç"][logits.argmax()]
    with pytest.raises(RuntimeError, match="404: Servable not found"):
        Rest(url, "no/body").predict(IMAGES)


def test_grpc(served):
    pytest.importorskip("tensorflow_serving", reason="pip install keras-distill[serving]")
    grpc = pytest.importorskip("grpc")
    from client import Grpc

    process, (address, _) = started(served[1], "--grpc=0", "--rest=0")
    try:
        found = Grpc(address, "student").predict({"image": IMAGES})
        right = served[0]["student"].predict(IMAGES, verbose=0)
        np.testing.assert_allclose(found["logits"], right, atol=1e-5)
        assert Grpc(address, "student", version=1).predict({"image": IMAGES})
        for client, code in [(Grpc(address, "nobody"), "NOT_FOUND"),
                             (Grpc(address, "student", version=9), "NOT_FOUND")]:  # fmt: skip
            with pytest.raises(grpc.RpcError) as error:
                client.predict({"image": IMAGES})
            assert error.value.code().name == code
        with pytest.raises(grpc.RpcError) as error:
            Grpc(address, "student").predict({"x": IMAGES})
        assert error.value.code().name == "INVALID_ARGUMENT"
    finally:
        process.kill()
        process.communicate()


def test_nothing_is_lost_under_load(url):
    from load_test import load

    seconds, faults = load(url, ["student", "teacher"], IMAGES, requests=300, clients=8)
    assert not faults and {name: len(each) for name, each in seconds.items()} == {
        "student": 150, "teacher": 150}  # fmt: skip


def test_wrong_and_lost_answers_are_counted(url, monkeypatch):
    import load_test

    right = load_test.expected_answers
    monkeypatch.setattr(load_test, "expected_answers", lambda *args: right(*args) + 0.01)
    seconds, faults = load_test.load(url, ["student"], IMAGES, requests=5, clients=2)
    assert len(faults) == 5 and "answered wrong" in faults[0]
    monkeypatch.setattr(load_test, "expected_answers", lambda *args: np.zeros((24, 3)))
    seconds, faults = load_test.load("http://127.0.0.1:9", ["student"], IMAGES, 3, 1)
    assert len(faults) == 3 and "was lost" in faults[0]


def test_the_configuration_names_the_models_of_the_client():
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from google.protobuf import text_format

    found = text_format.Parse((FOLDER / "models.config").read_text(), config.ModelServerConfig())
    assert [each.name for each in found.model_config_list.config] == ["student", "teacher"]
    compose = (FOLDER / "docker-compose.yml").read_text()
    for file in ("models.config", "batching.config"):
        assert (FOLDER / file).exists() and f"/config/{file}" in compose


def test_a_program_in_c_answers_the_same(served, tmp_path):
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    libraries = pathlib.Path(tf.sysconfig.get_lib())
    if not shutil.which("gcc") or not (libraries / "libtensorflow_cc.so.2").exists():
        pytest.skip("needs gcc, and the library in TensorFlow's wheel")
    program = tmp_path / "predict"
    subprocess.run(
        ["gcc", str(FOLDER / "predict.c"), "-o", str(program), f"-I{libraries}/include",
         f"-L{libraries}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2",
         f"-Wl,-rpath,{libraries}"],
        check=True,
    )  # fmt: skip
    folder = served[1] / "student" / "1"
    found = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signature = found.meta_graphs[0].signature_def["serving_default"]
    names = [signature.inputs["image"].name, signature.outputs["logits"].name]
    IMAGES.tofile(tmp_path / "in.f32")
    done = subprocess.run([program, folder, *names, tmp_path / "in.f32", "6", "5", "3"],
                          check=True, capture_output=True, text=True, env={})  # fmt: skip
    got = np.loadtxt(done.stdout.splitlines())
    right = served[0]["student"].predict(IMAGES, verbose=0)
    np.testing.assert_allclose(got, right, atol=1e-6)
