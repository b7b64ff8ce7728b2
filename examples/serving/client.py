"""
# A client of a served student

This client sends examples to TF Serving and prints the answers. For REST it needs Python and NumPy.
For gRPC it also needs `pip install keras-distill[serving]`.

    python examples/serving/client.py --model=student --inputs=runs/quickstart/examples.npz
    python examples/serving/client.py --model=student --inputs=FILE.npz --grpc=localhost:8500
    python examples/serving/client.py --model=student --image=digit.png
"""

import argparse
import base64
import http.client
import json
import urllib.parse

import numpy as np


class Rest:
    """A connection to a server's REST API.

    Args:
        url: the address of the server, such as `"http://localhost:8501"`.
        model: the name of the model.
        version: a version, or `None` for the highest.
    """

    def __init__(self, url, model, version=None):
        place = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        name = urllib.parse.quote(model, safe="")
        self.path = f"/v1/models/{name}" + (f"/versions/{version}" if version else "") + ":predict"

    def predict(self, inputs, signature="serving_default"):
        """Returns the outputs for a batch.

        Args:
            inputs: an array, a list of bytes, or a dict of these by input name.
            signature: the signature to call.

        Returns:
            The array of the only output, or a dict of arrays by output name.
        """
        body = json.dumps({"signature_name": signature, "inputs": _plain(inputs)})
        self.connection.request("POST", self.path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        found = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {found.get('error')}")
        outputs = found["outputs"]
        if isinstance(outputs, dict):
            return {name: np.array(value) for name, value in outputs.items()}
        return np.array(outputs)


def _plain(value):
    """Returns a value that JSON can hold. Bytes are encoded as TF Serving expects them."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return [_plain(each) for each in value] if isinstance(value, list) else value.tolist()


class Grpc:
    """A connection over gRPC. It sends arrays as bytes, so it is faster for large ones.

    Args:
        address: the address of the server, such as `"localhost:8500"`.
        model: the name of the model.
        version: a version, or `None` for the highest.
    """

    def __init__(self, address, model, version=None):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.model, self.version = model, version
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(
            grpc.insecure_channel(address)
        )

    def predict(self, inputs, signature="serving_default"):
        """Returns the outputs for a batch, a dict of arrays by output name.

        Args:
            inputs: a dict of arrays by input name.
            signature: the signature to call.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.signature_name = signature
        if self.version is not None:
            request.model_spec.version.value = self.version
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self.stub.Predict(request, timeout=60)
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def main():
    parser = argparse.ArgumentParser(description="Asks a served model for its outputs.")
    parser.add_argument("--url", default="http://localhost:8501", help="the server's REST API")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="use gRPC at this address instead")
    parser.add_argument("--model", required=True, help="the name of the served model")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--inputs", metavar="FILE.npz", help="a file with an array for each input")
    what.add_argument("--image", metavar="FILE", help="a JPEG or PNG file")
    parser.add_argument("--input_name", help="the input's name, if the file says `inputs`")
    parser.add_argument("--count", type=int, default=4, help="the number of examples (default: 4)")
    arguments = parser.parse_args()
    if arguments.image:
        with open(arguments.image, "rb") as file:
            inputs, signature = {"images": [file.read()]}, "image_bytes"
    else:
        with np.load(arguments.inputs) as found:
            inputs = {n: found[n][: arguments.count] for n in found if n != "targets"}
        signature = "serving_default"
        if set(inputs) == {"inputs"}:  # REST does not need the name of the only input
            only = inputs["inputs"]
            inputs = {arguments.input_name: only} if arguments.input_name else only
    if arguments.grpc:
        client = Grpc(arguments.grpc, arguments.model)
    else:
        client = Rest(arguments.url, arguments.model)
    print(client.predict(inputs, signature))


if __name__ == "__main__":
    main()
