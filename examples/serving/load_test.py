r"""
# Load test: many requests from several clients at once

Each client sends one example after the other, in turn to the student and to the teacher. It
compares every answer with the expected one. If a request is lost or answered wrong, the program
exits with 1.

    python examples/serving/load_test.py --url=http://localhost:8501 --inputs=FILE.npz \
        --models student teacher --requests=10000 --clients=8

`FILE.npz` holds the only input. The program first asks for the answers in batches. It expects the
same answers for single examples.
"""

import argparse
import itertools
import sys
import threading
import time

import numpy as np
from client import Rest


def expected_answers(url, model, inputs):
    """Returns the answers for all examples, which are asked for in batches."""
    client = Rest(url, model)
    parts = [client.predict(inputs[i : i + 64]) for i in range(0, len(inputs), 64)]
    return np.concatenate(parts)


def load(url, models, inputs, requests, clients, tolerance=1e-4):
    """Sends the requests; returns `{model: seconds of each}` and what was lost or wrong.

    Args:
        url: the address of the REST API.
        models: the names of the models, which are asked in turn.
        inputs: an array of examples.
        requests: the number of requests in all.
        clients: the number of clients that send at once.
        tolerance: the largest difference from an expected answer that is allowed.
    """
    right = {model: expected_answers(url, model, inputs) for model in models}
    numbers, lock = itertools.count(), threading.Lock()
    seconds, faults = {model: [] for model in models}, []

    def client():
        connections = {model: Rest(url, model) for model in models}
        while True:
            with lock:
                number = next(numbers)
            if number >= requests:
                return
            model, row = models[number % len(models)], number % len(inputs)
            begin = time.perf_counter()
            try:
                found = connections[model].predict(inputs[row : row + 1])[0]
            except Exception as error:  # any error loses the request
                faults.append(f"request {number} was lost: {type(error).__name__} {error}")
                connections[model] = Rest(url, model)
                continue
            taken = time.perf_counter() - begin
            if not np.max(np.abs(found - right[model][row])) <= tolerance:
                faults.append(f"request {number} was answered wrong")
            seconds[model].append(taken)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, faults


def main():
    parser = argparse.ArgumentParser(description="Tests a server with many requests at once.")
    parser.add_argument("--url", default="http://localhost:8501", help="the server's REST API")
    parser.add_argument("--inputs", required=True, metavar="FILE.npz", help="the only input")
    parser.add_argument("--models", nargs="+", default=["student", "teacher"],
                        help="the names of the served models")  # fmt: skip
    parser.add_argument("--requests", type=int, default=10_000, help="how many in all")
    parser.add_argument("--clients", type=int, default=8, help="how many send at once")
    arguments = parser.parse_args()
    with np.load(arguments.inputs) as found:
        inputs = next(found[name] for name in found if name != "targets")
    begin = time.perf_counter()
    seconds, faults = load(arguments.url, arguments.models, inputs, arguments.requests,
                           arguments.clients)  # fmt: skip
    taken = time.perf_counter() - begin
    print("| model | requests | median ms | 90% | 99% | 99.9% |\n|---|---|---|---|---|---|")
    for model, each in seconds.items():
        marks = 1000 * np.percentile(each, [50, 90, 99, 99.9])
        print(f"| {model} | {len(each):,} | " + " | ".join(f"{mark:.1f}" for mark in marks) + " |")
    done = sum(map(len, seconds.values()))
    print(f"\n{done:,} of {arguments.requests:,} answered in {taken:.0f} s, {len(faults)} lost or "
          f"wrong, from {arguments.clients} clients.")  # fmt: skip
    for fault in faults[:10]:
        print(fault, file=sys.stderr)
    return int(bool(faults) or done != arguments.requests)


if __name__ == "__main__":
    sys.exit(main())
