"""The pretrained encoder of the examples on text, and what makes its inputs."""

import re

import keras_hub


def add_arguments(parser, length):
    """The flags that choose an encoder, and how much of a text it reads."""
    parser.add_argument("--encoder", help="a BERT's folder or preset; by default DATA/minilm")
    parser.add_argument("--length", default=length, type=int,
                        help="tokens, the longest texts are cut")  # fmt: skip
    parser.add_argument("--dtype", default="float32",
                        help="mixed_bfloat16 is faster where a chip has it")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="a random encoder, one epoch")


def parsed(parser, arguments):
    """The parsed flags, with an encoder chosen."""
    given = parser.parse_args(arguments)
    given.encoder = given.encoder or (given.data and str(given.data / "minilm"))
    if not (given.encoder or given.tiny):
        parser.error("--encoder is needed where --data is not given")
    return given


def encoder(given, texts):
    """A backbone and its preprocessor; with `--tiny` a random one over the words of `texts`."""
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
