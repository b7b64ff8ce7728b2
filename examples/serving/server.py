"""
# A stand-in for TF Serving

This server answers TF Serving's predict API on the loopback interface over REST. It also answers
over gRPC, if grpcio and tensorflow-serving-api are installed. It is for tests and for trying a
client. It does not batch requests, and it is not a server for production.

    python examples/serving/server.py --models=served --rest=8501 --grpc=8500

The folder `served` holds a folder for each model, which holds a folder for each version. The
highest version is served.
"""

import argparse
import base64
import concurrent.futures
import http.server
import json
import os
import pathlib
import re
import threading

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

ROUTE = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(:predict)?")


class Models:
    """The models of a folder. Each is loaded at its first request."""

    def __init__(self, folder):
        self.folder, self._loaded, self._lock = pathlib.Path(folder), {}, threading.Lock()

    def loaded(self, name, version):
        with self._lock:
            if (name, version) not in self._loaded:
                path = str(self.folder / name / str(version))
                self._loaded[name, version] = tf.saved_model.load(path)
            return self._loaded[name, version]

    def version(self, name, version=None):
        """Returns the requested version, or the highest."""
        folder = self.folder / name
        found = [int(each.name) for each in folder.glob("*") if each.name.isdigit()]
        if name in ("", ".", "..") or not found or (version and int(version) not in found):
            raise LookupError(f"Servable not found for request: {name}")
        return int(version) if version else max(found)

    def predict(self, name, version, signature, inputs):
        """Returns `{output: array}` of a signature for `{input: array}`."""
        version = self.version(name, version)
        known = self.loaded(name, version).signatures
        if signature not in known:
            raise ValueError(f"Serving signature name: {signature!r} not found in signature def")
        specs = known[signature].structured_input_signature[1]
        if set(inputs) != set(specs):
            raise ValueError(f"The inputs are {sorted(specs)}. Received: {sorted(inputs)}")
        given = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
        return {key: value.numpy() for key, value in known[signature](**given).items()}

    def input_names(self, name, version, signature):
        known = self.loaded(name, self.version(name, version)).signatures
        return list(known[signature].structured_input_signature[1]) if signature in known else []


"""
## REST

A request holds `instances`, a list with an entry for each example, or `inputs`, with a batch for
each input. Bytes are written as `{"b64": "..."}`.
"""


def decoded(value):
    """Returns a value of the request with its bytes decoded."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"])
    if isinstance(value, dict):
        return {key: decoded(each) for key, each in value.items()}
    return [decoded(each) for each in value] if isinstance(value, list) else value


def encoded(array):
    """Returns an array as JSON holds it."""
    if array.dtype.kind in "OS":
        return np.vectorize(lambda text: text.decode(errors="replace"), otypes="O")(array).tolist()
    return array.tolist()


def answer(models, name, version, request):
    """Returns the response to one predict request."""
    signature = request.get("signature_name") or "serving_default"
    names = models.input_names(name, version, signature)
    if "instances" in request:
        rows = decoded(request["instances"])
        if all(isinstance(row, dict) for row in rows):
            inputs = {key: [row[key] for row in rows] for key in rows[0]}
        else:
            inputs = {(names or ["?"])[0]: rows}
        outputs = models.predict(name, version, signature, inputs)
        columns = {key: encoded(value) for key, value in outputs.items()}
        if len(columns) == 1:
            return {"predictions": next(iter(columns.values()))}
        return {"predictions": [dict(zip(columns, row)) for row in zip(*columns.values())]}
    inputs = decoded(request["inputs"])
    inputs = inputs if isinstance(inputs, dict) else {(names or ["?"])[0]: inputs}
    outputs = models.predict(name, version, signature, inputs)
    columns = {key: encoded(value) for key, value in outputs.items()}
    return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection open for the client's next request
    models = None

    def do_GET(self):
        self._answer(lambda name, version: {"model_version_status": [
            {"version": str(self.models.version(name, version)), "state": "AVAILABLE",
             "status": {"error_code": "OK", "error_message": ""}}]}, predicts=False)  # fmt: skip

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(lambda name, version: answer(self.models, name, version, json.loads(body)))

    def _answer(self, respond, predicts=True):
        found = ROUTE.fullmatch(self.path)
        try:
            if found is None or bool(found[3]) != predicts:
                raise LookupError(f"Malformed request: {self.command} {self.path}")
            status, response = 200, respond(found[1], found[2])
        except LookupError as error:
            status, response = 404, {"error": str(error)}
        except (ValueError, TypeError, tf.errors.OpError) as error:
            status, response = 400, {"error": " ".join(str(error).split())}
        content = json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, models, port):
        handler = type("Bound", (Handler,), {"models": models})
        super().__init__(("127.0.0.1", port), handler)


"""
## gRPC

This is the same service as TF Serving's, made from its own definition of the messages.
"""


def grpc_server(models, port, threads=8):
    """Returns `(server, port)` of a started gRPC server."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            version = spec.version.value if spec.HasField("version") else None
            try:
                inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
                outputs = models.predict(
                    spec.name, version, spec.signature_name or "serving_default", inputs
                )
            except LookupError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            except (ValueError, TypeError, tf.errors.OpError) as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            response = predict_pb2.PredictResponse()
            for key, value in outputs.items():
                response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port


def main():
    parser = argparse.ArgumentParser(description="Stands in for TF Serving's predict API.")
    parser.add_argument("--models", required=True, help="a folder with a folder for each model")
    parser.add_argument("--rest", type=int, default=8501, help="the REST port; 0 takes a free one")
    parser.add_argument("--grpc", type=int, help="the gRPC port; 0 takes a free one")
    arguments = parser.parse_args()
    models = Models(arguments.models)
    if arguments.grpc is not None:
        _, port = grpc_server(models, arguments.grpc)
        print(f"gRPC on 127.0.0.1:{port}", flush=True)
    server = RestServer(models, arguments.rest)
    print(f"REST on http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
