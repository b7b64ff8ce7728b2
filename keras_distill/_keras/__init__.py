"""The border to Keras: each private name that this package needs, with the reason, and no others.

`tests/keras_border_test.py` tests that each still exists and behaves.
"""
