"""Small models of every family of KerasHub, as a task if there is one, with inputs for them."""

import hub_images
import keras
import keras_hub
import numpy as np

M = keras_hub.models
WORDS, TOKENS, CLASSES = 60, 8, 3
AUDIO = 1200  # samples of sound
TEXT = {"vocabulary_size": WORDS, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
GROUPED = {
    "vocabulary_size": WORDS,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
MIXED = {name: size for name, size in GROUPED.items() if name != "intermediate_dim"}
SHORT = {"max_sequence_length": 16}
EXPERTS = {"moe_intermediate_dim": 16, "num_experts": 2, "top_k": 1}
SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 16,
        "intermediate_dim": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }.items()
}


def _text(name, **others):
    """Returns a classifier of sequences."""

    def make(depth):
        backbone = getattr(M, f"{name}Backbone")(**TEXT, num_layers=depth, **others)
        return getattr(M, f"{name}TextClassifier")(
            backbone, num_classes=CLASSES, preprocessor=None
        )

    return make


def _causal(name, sizes=TEXT, **others):
    """Returns a language model."""

    def make(depth):
        backbone = getattr(M, f"{name}Backbone")(**sizes, num_layers=depth, **others)
        return getattr(M, f"{name}CausalLM")(backbone=backbone, preprocessor=None)

    return make


def _bare(name, sizes=TEXT, **others):
    """Returns a backbone without a task that takes it as it is."""
    return lambda depth: getattr(M, f"{name}Backbone")(**sizes, num_layers=depth, **others)


def _seq_2_seq(name, sizes=TEXT, **others):
    def make(depth):
        backbone = getattr(M, f"{name}Backbone")(**sizes, num_layers=depth, **others)
        return getattr(M, f"{name}Seq2SeqLM")(backbone=backbone, preprocessor=None)

    return make


def _f_net(depth):
    sizes = {name: value for name, value in TEXT.items() if name != "num_heads"}
    backbone = M.FNetBackbone(**sizes, **SHORT, num_layers=depth)
    return M.FNetTextClassifier(backbone, num_classes=CLASSES, preprocessor=None)


def _electra(depth):
    sizes = {name: value for name, value in TEXT.items() if name != "vocabulary_size"}
    return M.ElectraBackbone(
        vocab_size=WORDS, embedding_dim=16, num_layers=depth, **sizes, **SHORT
    )


def _falcon(depth):
    sizes = {name: value for name, value in TEXT.items() if name != "num_heads"}
    backbone = M.FalconBackbone(num_attention_heads=2, num_layers=depth, **sizes)
    return M.FalconCausalLM(backbone=backbone, preprocessor=None)


def _smol(depth):
    backbone = M.SmolLM3Backbone(
        vocabulary_size=WORDS, hidden_dim=16, intermediate_dim=32, num_layers=depth,
        num_attention_heads=2, num_key_value_heads=1, attention_bias=False, attention_dropout=0.0,
        rope_layer_enabled_list=[True] * depth, layer_types=["full_attention"] * depth,
        mlp_bias=False, layer_norm_epsilon=1e-6, max_position_embeddings=16, rope_theta=1e4,
        partial_rotary_factor=1.0,
    )  # fmt: skip
    return M.SmolLM3CausalLM(backbone=backbone, preprocessor=None)


def _gemma3(depth):
    backbone = M.Gemma3Backbone(
        **GROUPED, image_size=16, head_dim=8, num_layers=depth, sliding_window_size=8
    )
    return M.Gemma3CausalLM(backbone=backbone, preprocessor=None)


def _gemma4(depth):
    backbone = M.Gemma4Backbone(**GROUPED, image_size=16, head_dim=8, num_layers=depth)
    return M.Gemma4CausalLM(backbone=backbone, preprocessor=None)


def _gemma3n(depth):
    backbone = M.Gemma3nBackbone(
        text_vocab_size=WORDS, text_hidden_size=16, num_hidden_layers=depth, pad_token_id=0,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=[32] * depth,
        hidden_activation="gelu_approximate", layer_types=["full_attention"] * depth,
        sliding_window=4, rope_theta=1e4, max_position_embeddings=16,
        vocab_size_per_layer_input=WORDS, hidden_size_per_layer_input=4, altup_num_inputs=2,
        laurel_rank=2,
    )  # fmt: skip
    return M.Gemma3nCausalLM(backbone=backbone, preprocessor=None)


def _pali_gemma(depth):
    backbone = M.PaliGemmaBackbone(
        **GROUPED, num_layers=depth, head_dim=8, image_size=16, vit_patch_size=8, vit_num_heads=2,
        vit_hidden_dim=16, vit_num_layers=depth, vit_intermediate_dim=16,
    )  # fmt: skip
    return M.PaliGemmaCausalLM(backbone=backbone, preprocessor=None)


def _rwkv7(depth):
    backbone = M.RWKV7Backbone(
        hidden_size=16, head_size=8, num_layers=depth, vocabulary_size=WORDS, intermediate_dim=32,
        gate_lora=4, mv_lora=4, aaa_lora=4, decay_lora=4,
    )  # fmt: skip
    return M.RWKV7CausalLM(backbone=backbone, preprocessor=None)


def _t5_gemma(name, **others):
    def make(depth):
        backbone = getattr(M, f"{name}Backbone")(
            vocabulary_size=WORDS, **SIDES, encoder_num_layers=depth, decoder_num_layers=depth,
            encoder_layer_types=["full_attention"] * depth,
            decoder_layer_types=["full_attention"] * depth, **others,
        )  # fmt: skip
        return getattr(M, f"{name}Seq2SeqLM")(backbone=backbone, preprocessor=None)

    return make


def _ed_rec(depth):
    backbone = M.EdRecBackbone(
        vocab_size=WORDS, num_layers_enc=depth, num_layers_dec=depth, hidden_dim=16,
        intermediate_dim=32, num_heads=2,
    )  # fmt: skip
    return M.EdRecSeq2SeqLM(backbone=backbone, preprocessor=None)


def _whisper(depth):
    return M.WhisperBackbone(
        **TEXT, num_layers=depth, num_mels=4, max_encoder_sequence_length=16,
        max_decoder_sequence_length=16,
    )  # fmt: skip


def _moonshine(depth):
    return M.MoonshineBackbone(
        vocabulary_size=WORDS, filter_dim=16, encoder_num_layers=depth, decoder_num_layers=depth,
        hidden_dim=16, intermediate_dim=32, encoder_num_heads=2, decoder_num_heads=2,
    )  # fmt: skip


def _clip(name):
    def make(depth):
        vision = getattr(M, f"{name}VisionEncoder")(
            patch_size=16, hidden_dim=16, num_layers=depth, num_heads=2, intermediate_dim=32,
            image_shape=(32, 32, 3),
        )  # fmt: skip
        text = getattr(M, f"{name}TextEncoder")(
            vocabulary_size=WORDS, embedding_dim=16, hidden_dim=16, num_layers=depth, num_heads=2,
            intermediate_dim=32, max_sequence_length=TOKENS,
        )  # fmt: skip
        return getattr(M, f"{name}Backbone")(vision, text, projection_dim=8)

    return make


def _sig_lip(depth):
    vision = keras_hub.models.SigLIPVisionEncoder(
        patch_size=16, hidden_dim=16, num_layers=depth, num_heads=2, intermediate_dim=32,
        image_shape=(32, 32, 3),
    )  # fmt: skip
    text = keras_hub.models.SigLIPTextEncoder(
        vocabulary_size=WORDS, embedding_dim=16, hidden_dim=16, num_layers=depth, num_heads=2,
        intermediate_dim=32, max_sequence_length=TOKENS,
    )  # fmt: skip
    return M.SigLIPBackbone(vision, text)


def _blip2(depth):
    vision = M.BLIP2VisionEncoder(
        image_size=32, patch_size=16, num_layers=depth, num_heads=2, hidden_dim=16,
        intermediate_dim=32, use_patch_bias=True, use_class_token=True, use_mha_bias=True,
        use_mlp_bias=True, dropout_rate=0.0, layer_norm_epsilon=1e-6, initializer_range=0.02,
    )  # fmt: skip
    former = M.BLIP2QFormer(
        num_query_tokens=4, num_layers=depth, num_heads=2, hidden_dim=16, intermediate_dim=32,
        vision_dim=16, cross_attention_frequency=2, dropout=0.0, layer_norm_epsilon=1e-6,
    )  # fmt: skip
    language = M.BLIP2CustomOPT(
        **TEXT, num_layers=depth, max_sequence_length=32, num_query_tokens=4,
        qformer_hidden_dim=16, dropout=0.0,
    )  # fmt: skip
    backbone = M.BLIP2Backbone(vision, former, language)
    return M.BLIP2CausalLM(backbone=backbone, preprocessor=None)


FAMILIES = {
    "ALBERT": _text("Albert", **SHORT, embedding_dim=8),
    "BERT": _text("Bert", **SHORT),
    "DeBERTaV3": _text("DebertaV3", **SHORT, bucket_size=4),
    "DistilBERT": _text("DistilBert", **SHORT),
    "ELECTRA": _electra,
    "ESM": _bare("ESM", max_wavelength=10000),
    "FNet": _f_net,
    "RoBERTa": _text("Roberta", **SHORT),
    "RoformerV2": _text("RoformerV2", head_size=8),
    "XLM-RoBERTa": _text("XLMRoberta", **SHORT),
    "XLNet": _bare("XLNet"),
    "Bloom": _causal("Bloom"),
    "Falcon": _falcon,
    "Gemma": _causal("Gemma", GROUPED, head_dim=8),
    "Gemma 2": _causal(
        "Gemma", GROUPED, head_dim=8, use_post_ffw_norm=True, use_post_attention_norm=True,
        attention_logit_soft_cap=50, final_logit_soft_cap=30, query_head_dim_normalize=False,
        use_sliding_window_attention=True, sliding_window_size=8,
    ),
    "Gemma 3": _gemma3,
    "Gemma 3n": _gemma3n,
    "Gemma 4": _gemma4,
    "GPT-2": _causal("GPT2", **SHORT),
    "GPT-NeoX": _causal("GPTNeoX", **SHORT),
    "GPT-OSS": _causal("GptOss", GROUPED, num_experts=2, top_k=1),
    "Llama": _causal("Llama", GROUPED),
    "Llama 3": _causal("Llama3", GROUPED),
    "Mistral": _causal("Mistral", GROUPED),
    "Mixtral": _causal("Mixtral", GROUPED, num_experts=2, top_k=1),
    "OPT": _causal("OPT", **SHORT),
    "PaliGemma": _pali_gemma,
    "Phi-3": _causal("Phi3", GROUPED),
    "Qwen 2": _causal("Qwen", GROUPED),
    "Qwen MoE": _causal("QwenMoe", GROUPED, **EXPERTS, shared_expert_intermediate_dim=16),
    "Qwen 3": _causal("Qwen3", GROUPED, head_dim=8),
    "Qwen 3 MoE": _causal("Qwen3Moe", GROUPED, **EXPERTS),
    "Qwen 3.5": _causal(
        "Qwen3_5", GROUPED, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=4, linear_value_head_dim=4,
    ),
    "Qwen 3.5 MoE": _causal(
        "Qwen3_5Moe", MIXED, **EXPERTS, head_dim=8, linear_num_key_heads=2,
        shared_expert_intermediate_size=16, linear_num_value_heads=2, linear_key_head_dim=4,
        linear_value_head_dim=4,
    ),
    "RWKV-7": _rwkv7,
    "SmolLM 3": _smol,
    "BART": _seq_2_seq("Bart", **SHORT),
    "EdRec": _ed_rec,
    "Moonshine": _moonshine,
    "T5": _seq_2_seq("T5"),
    "T5Gemma": _t5_gemma("T5Gemma"),
    "T5Gemma 2": _t5_gemma("T5Gemma2"),
    "Whisper": _whisper,
    "BLIP-2": _blip2,
    "CLIP": _clip("CLIP"),
    "MetaCLIP 2": _clip("MetaCLIP2"),
    "SigLIP": _sig_lip,
    **hub_images.IMAGES,
}  # fmt: skip


# Inputs that `generate` takes beside those of the model.
PROMPTS = {
    "Gemma 3": {"images": np.zeros((2, 0, 16, 16, 3), "float32")},
    "RWKV-7": {
        "input_padding_mask": np.ones((2, TOKENS), "bool"),
        "padding_mask": np.array([[True, False, False]] * 2),
        "predict_token_ids": np.zeros((2, 3), "int32"),
    },
}


def inputs(model, count=2, seed=0):
    """Returns a batch by the names and shapes of a model's inputs; the second text is padded."""
    generator = np.random.default_rng(seed)
    given = model.input
    if not isinstance(given, dict):
        return _input(given.name, given, count, generator)
    heard = [name for name in given if "encoder" in name and "encoder_input_values" in given]
    return {
        name: _input(name, tensor, count, generator, AUDIO if name in heard else TOKENS)
        for name, tensor in given.items()
    }


def _input(name, tensor, count, generator, tokens=TOKENS):
    unknown = 1 if name.startswith("box") else tokens  # one box on each image
    shape = (count, *(size or unknown for size in tensor.shape[1:]))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "token_ids" in name:
        return generator.integers(3, WORDS, shape).astype("int32")
    if "padding_mask" in name:
        mask = np.ones(shape, "bool")
        mask[1, -2:] = False
        return mask
    if "boxes" in name:
        return generator.uniform(0.3, 0.6, shape).astype(dtype)
    if name == "num_steps":
        return np.ones(shape, dtype)
    if dtype.startswith("float"):
        return generator.normal(size=shape).astype(dtype)
    return np.zeros(shape, dtype)
