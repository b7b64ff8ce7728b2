"""The page with teacher and student, in headless Chromium, against Keras's own answers."""

import functools
import http.server
import importlib.util
import json
import pathlib
import queue
import shutil
import subprocess
import threading

import keras
import numpy as np
import pytest

from keras_distill.export import formats

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = json.loads((FOLDER / "package.json").read_text())["dependencies"]


def test_versions_are_pinned_and_nothing_is_fetched_from_elsewhere():
    assert all(version[0].isdigit() for version in PACKAGES.values())
    for file in ("index.html", "page.js", "style.css"):
        assert "://" not in (FOLDER / file).read_text().replace("http://127.0.0.1", "")


@pytest.fixture(scope="module")
def browser():
    """The path of a browser; skips where something is missing."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed")
    if not all((FOLDER / "node_modules" / name).is_dir() for name in PACKAGES):
        pytest.skip("the page's packages are missing: npm install in examples/browser")
    for kind in ("litert", "onnx"):
        if not all(map(importlib.util.find_spec, formats.FORMATS[kind].packages)):
            pytest.skip("pip install keras-distill[export]")
    return found


def network(width, name):
    keras.utils.set_random_seed(width)
    x = inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=name)


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory):
    """The page with two networks of its own."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("index.html", "page.js", "style.css"):
        shutil.copy(FOLDER / name, folder)
    (folder / "node_modules").symlink_to(FOLDER / "node_modules")
    (folder / "models").mkdir()
    for width, name in ((4, "student"), (24, "teacher")):
        network(width, name).save(folder / f"{name}.keras")
    spec = importlib.util.spec_from_file_location("prepare", FOLDER / "prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    images = np.random.default_rng(0).random((30, 8, 8, 1)).astype("float32")
    prepare.write(folder, folder / "models", images)
    return folder


@pytest.fixture(scope="module")
def served(site):
    """The page's address, and a queue of what it sends back."""
    sent = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
                          ".mjs": "text/javascript", ".wasm": "application/wasm",
                          "": "application/octet-stream"}  # fmt: skip

        def do_POST(self):
            sent.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", sent
    server.shutdown()


@pytest.mark.parametrize("width", [360, 1400])
def test_both_runtimes_answer_as_keras_does(browser, served, site, width, tmp_path):
    url, sent = served
    page = f"{url}/index.html?check={url}/check"
    frame = site / f"frame_{width}.html"  # a window of Chromium is never narrower than 500 pixels
    frame.write_text(f'<iframe src="{page}" style="width:{width}px;height:900px;border:0">')
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-dev-shm-usage",
               "--remote-debugging-port=0", "--window-size=1500,1000",
               f"--user-data-dir={tmp_path}", f"{url}/{frame.name}"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        found = sent.get(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert found["width"] == width and not found["wide"]
    assert {*found["differences"]} == {f"{kind} {name}" for kind in ("litert", "onnx")
                                       for name in ("teacher", "student")}  # fmt: skip
    assert max(found["differences"].values()) <= 1e-5, found
    told = json.loads((site / "models" / "page.json").read_text())
    for name, digit in found["cards"].items():
        assert digit == str(np.argmax(told["models"][name]["answers"][3]))
