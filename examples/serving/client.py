"""
# A client of a served student

REST needs Python alone. gRPC needs `pip install keras-distill[serving]`.

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
        url: Where it listens, such as `"http://localhost:8501"`.
        model: The name of the model.
        version: A version, or `None` for the highest.
    """

    def __init__(self, url, model, version=None):
        place = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        name = urllib.parse.quote(model, safe="")
        self.path = f"/v1/models/{name}" + (f"/versions/{version}" if version else "") + ":predict"

    def predict(self, inputs, signature="serving_default"):
        """The outputs for a batch.

        Args:
            inputs: An array, a list of bytes, or a dict of these by input name.
            signature: The signature to call.

        Returns:
            The only output's array, or a dict of arrays by output name.
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
    """What JSON can hold; bytes as TF Serving writes them."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return [_plain(each) for each in value] if isinstance(value, list) else value.tolist()


class Grpc:
    """The same over gRPC, which sends arrays as bytes and so is quicker for large ones.

    Args:
        address: Where the server listens, such as `"localhost:8500"`.
        model: The name of the model.
        version: A version, or `None` for the highest.
    """

    def __init__(self, address, model, version=None):
        import grpc
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self.model, self.version = model, version
        self.stub = prediction_service_pb2_grpc.PredictionServiceStub(
            grpc.insecure_channel(address)
        )

    def predict(self, inputs, signature="serving_default"):
        """The outputs for a batch, a dict of arrays by output name.

        Args:
            inputs: A dict of arrays by input name.
            signature: The signature to call.
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
    parser = argparse.ArgumentParser(description="Asks a served model for its answers.")
    parser.add_argument("--url", default="http://localhost:8501", help="of the REST API")
    parser.add_argument("--grpc", metavar="HOST:PORT", help="ask over gRPC instead")
    parser.add_argument("--model", required=True, help="the name it is served under")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--inputs", metavar="FILE.npz", help="an array for each input")
    what.add_argument("--image", metavar="FILE", help="a JPEG or PNG file")
    parser.add_argument("--input_name", help="over gRPC, of an input that the file calls `inputs`")
    parser.add_argument("--count", type=int, default=4, help="how many examples (default: 4)")
    arguments = parser.parse_args()
    if arguments.image:
        with open(arguments.image, "rb") as file:
            inputs, signature = {"images": [file.read()]}, "image_bytes"
    else:
        with np.load(arguments.inputs) as found:
            inputs = {n: found[n][: arguments.count] for n in found if n != "targets"}
        signature = "serving_default"
        if set(inputs) == {"inputs"}:  # the only one, whose name REST need not know
            only = inputs["inputs"]
            inputs = {arguments.input_name: only} if arguments.input_name else only
    if arguments.grpc:
        client = Grpc(arguments.grpc, arguments.model)
    else:
        client = Rest(arguments.url, arguments.model)
    print(client.predict(inputs, signature))


if __name__ == "__main__":
    main()
