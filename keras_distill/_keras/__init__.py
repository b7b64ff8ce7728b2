"""The border to Keras: every private name of Keras that this package needs, with the reason.

`tests/keras_border_test.py` tests that each name still exists and behaves the same.
"""
