"""BART whose encoder and decoder differ in depth, so that a student can have fewer decoder blocks.
"""

import keras
import keras_hub
from language import byte_pairs

EMBEDDINGS = ("position_embedding", "embeddings_add", "embeddings_layer_norm", "embeddings_dropout")


@keras.saving.register_keras_serializable(package="keras_distill_examples")
class Bart(keras_hub.models.Backbone):
    """KerasHub's `BartBackbone` with a shorter decoder.

    `BartBackbone` has one depth for both sides. This backbone takes a depth for each side.

    Args:
        encoder_num_layers: the number of encoder blocks.
        decoder_num_layers: the number of decoder blocks, at most `encoder_num_layers`.
        **sizes: the other arguments of `BartBackbone`.

    Raises:
        ValueError: if the decoder is deeper than the encoder.
    """

    def __init__(self, encoder_num_layers, decoder_num_layers, *, name=None, trainable=True,
                 **sizes):  # fmt: skip
        if decoder_num_layers > encoder_num_layers:
            raise ValueError(
                f"The decoder may have at most the {encoder_num_layers} blocks of the encoder. "
                f"Received: decoder_num_layers={decoder_num_layers}"
            )
        whole = keras_hub.models.BartBackbone(num_layers=encoder_num_layers, **sizes)
        decoder = whole.decoder_transformer_layers[:decoder_num_layers]
        outputs = {**whole.output, "decoder_sequence_output": decoder[-1].output}
        dtype = sizes.pop("dtype", None)
        super().__init__(whole.input, outputs, name=name, trainable=trainable, dtype=dtype)
        # `BartSeq2SeqLM` reads these attributes when it generates. `num_layers` is the depth of
        # its cache, so it is the decoder's depth.
        self.token_embedding = whole.token_embedding
        for side in ("encoder", "decoder"):
            for part in EMBEDDINGS:
                setattr(self, f"{side}_{part}", getattr(whole, f"{side}_{part}"))
        self.encoder_transformer_layers = list(whole.encoder_transformer_layers)
        self.decoder_transformer_layers = list(decoder)
        self.num_layers = decoder_num_layers
        self.sizes = {
            **{key: value for key, value in whole.get_config().items()
               if key not in ("name", "trainable", "dtype", "num_layers")},
            "encoder_num_layers": encoder_num_layers, "decoder_num_layers": decoder_num_layers,
        }  # fmt: skip
        for key, value in self.sizes.items():
            setattr(self, key, value)

    def get_config(self):
        return {**super().get_config(), **self.sizes}


def tokenizer(texts, size):
    """Trains a BART tokenizer of at most `size` tokens, which are the most common in `texts`."""
    special = ["<s>", "<pad>", "</s>", "<mask>"]
    vocabulary, merges = byte_pairs(texts, size - len(special))
    vocabulary |= {token: len(vocabulary) + index for index, token in enumerate(special)}
    return keras_hub.models.BartTokenizer(vocabulary=vocabulary, merges=merges)


def task(backbone, tokenizer, length, summary_length, name=None):
    """Returns a model that reads `length` tokens and writes up to `summary_length` tokens."""
    preprocessor = keras_hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=length, decoder_sequence_length=summary_length
    )
    return keras_hub.models.BartSeq2SeqLM(backbone, preprocessor, name=name)
