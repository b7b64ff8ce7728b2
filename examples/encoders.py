"""Loads the pretrained encoder for the examples on text, and its preprocessor."""

import re

import keras_hub


def add_arguments(parser, length):
    """Adds the options that choose an encoder and how much of a text it reads."""
    parser.add_argument("--encoder", help="the folder or preset of a BERT (default: DATA/minilm)")
    parser.add_argument("--length", default=length, type=int,
                        help="the tokens of a text; longer texts are cut")  # fmt: skip
    parser.add_argument("--dtype", default="float32",
                        help="mixed_bfloat16 is faster on chips that support it")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a random encoder, one epoch")


def parsed(parser, arguments):
    """Returns the parsed options, with an encoder chosen."""
    given = parser.parse_args(arguments)
    given.encoder = given.encoder or (given.data and str(given.data / "minilm"))
    if not (given.encoder or given.tiny):
        parser.error("Give --encoder, or --data with the folder minilm.")
    return given


def encoder(given, texts):
    """Returns a backbone and its preprocessor.

    With `--tiny` the backbone is a random one, and its vocabulary holds the words of `texts`.
    """
    if given.tiny:
        tokenizer, backbone = _tiny(texts, given.dtype)
    else:
        tokenizer = keras_hub.models.BertTokenizer.from_preset(given.encoder, strip_accents=True)
        backbone = keras_hub.models.BertBackbone.from_preset(given.encoder, dtype=given.dtype)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
        tokenizer, sequence_length=given.length
    )
    return backbone, preprocessor


def _tiny(texts, dtype):
    found = sorted({word for text in texts for word in re.findall(r"\w+|\S", text.lower())})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *found]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(tokens), num_layers=3, num_heads=2, hidden_dim=16,
        intermediate_dim=16, max_sequence_length=16, dtype=dtype,
    )  # fmt: skip
    return keras_hub.models.BertTokenizer(vocabulary=tokens, lowercase=True), backbone
