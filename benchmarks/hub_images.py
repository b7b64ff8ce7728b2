"""Small models of KerasHub's families for images or videos."""

import keras_hub

M = keras_hub.models
CLASSES = 3
SHAPE = (32, 32, 3)
OF_ANY_SIZE = (None, None, 3)
RES_NET = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 64, 64, 64],  # the first must be 64
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}


def classifier(name, **others):
    """Returns a classifier of images; callables in its arguments get the `depth`."""

    def make(depth):
        sizes = {key: value(depth) if callable(value) else value for key, value in others.items()}
        backbone = getattr(M, f"{name}Backbone")(**{"image_shape": SHAPE, **sizes})
        return getattr(M, f"{name}ImageClassifier")(
            backbone=backbone, num_classes=CLASSES, preprocessor=None
        )

    return make


def same(depth):
    """Returns the depth, for a size that is one number."""
    return depth


def twice(depth):
    """Returns two stages of that depth."""
    return [depth, depth]


def res_net(depth, stages=4, shape=SHAPE):
    """Returns a ResNet as an encoder of images."""
    sizes = {key: value[:stages] if "stackwise" in key else value for key, value in RES_NET.items()}
    return M.ResNetBackbone(**sizes, stackwise_num_blocks=[depth] * stages, image_shape=shape)


def _mit(depth):
    return M.MiTBackbone(
        layerwise_depths=[depth, depth], num_layers=2, layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1], max_drop_path_rate=0.0, layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2], hidden_dims=[8, 16], image_shape=SHAPE,
    )  # fmt: skip


def _vit_det(depth, channels=8, patch=8):
    return M.ViTDetBackbone(
        hidden_size=16, num_layers=depth, intermediate_dim=32, num_heads=2,
        global_attention_layer_indices=[depth - 1], image_shape=SHAPE, patch_size=patch,
        num_output_channels=channels, window_size=2,
    )  # fmt: skip


def _dino(depth):
    return M.DINOV2Backbone(16, depth, 16, 2, 32, image_shape=SHAPE, position_embedding_shape=SHAPE)


def _mobile_net(depth):
    def rows(first, others=None):
        others = first if others is None else others
        return [[first] + [others] * (depth - 1)] * 2

    backbone = M.MobileNetBackbone(
        stackwise_expansion=rows(16), stackwise_num_blocks=[depth] * 2,
        stackwise_num_filters=rows(8), stackwise_kernel_size=rows(3),
        stackwise_num_strides=rows(2, 1), stackwise_se_ratio=rows(0.25),
        stackwise_activation=rows("relu"), stackwise_padding=rows(1), input_num_filters=8,
        output_num_filters=16, depthwise_filters=8, depthwise_stride=2, depthwise_residual=False,
        last_layer_filter=16, image_shape=SHAPE,
    )  # fmt: skip
    return M.MobileNetImageClassifier(backbone=backbone, num_classes=CLASSES, preprocessor=None)


def _mobile_net_v5(depth):
    def rows(value, first=None):
        return [[value if first is None else first] + [value] * (depth - 1)] * 2

    backbone = M.MobileNetV5Backbone(
        stackwise_block_types=rows("uir"), stackwise_num_blocks=[depth] * 2,
        stackwise_num_filters=rows(16), stackwise_strides=rows(1, 2),
        stackwise_act_layers=rows("relu"), stackwise_exp_ratios=rows(2.0),
        stackwise_se_ratios=rows(0.0), stackwise_dw_kernel_sizes=rows(3),
        stackwise_dw_start_kernel_sizes=rows(0), stackwise_dw_end_kernel_sizes=rows(0),
        stackwise_exp_kernel_sizes=rows(0), stackwise_pw_kernel_sizes=rows(0),
        stackwise_num_heads=rows(0), stackwise_key_dims=rows(0), stackwise_value_dims=rows(0),
        stackwise_kv_strides=rows(0), stackwise_use_cpe=rows(False), use_msfa=False,
        stem_size=8, image_shape=SHAPE,
    )  # fmt: skip
    return M.MobileNetV5ImageClassifier(backbone=backbone, num_classes=CLASSES, preprocessor=None)


def _hg_net(depth, shape=SHAPE, **others):
    return M.HGNetV2Backbone(
        depths=[depth] * 2, embedding_size=8, hidden_sizes=[16, 16], stem_channels=[3, 8, 8],
        hidden_act="relu", use_learnable_affine_block=False,
        stackwise_stage_filters=[(8, 8, 16, depth, 1, 3), (16, 8, 16, depth, 1, 3)],
        apply_downsample=[False, True], use_lightweight_conv_block=[False, False],
        image_shape=shape, **others,
    )  # fmt: skip


def _hg_net_classifier(depth):
    return M.HGNetV2ImageClassifier(
        backbone=_hg_net(depth), num_classes=CLASSES, preprocessor=None
    )


def _efficient_net(depth):
    backbone = M.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0] * 2, stackwise_depth_coefficients=[1.0] * 2,
        stackwise_kernel_sizes=[3, 3], stackwise_num_repeats=[depth] * 2,
        stackwise_input_filters=[8, 8], stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 2], stackwise_squeeze_and_excite_ratios=[0.0, 0.25],
        stackwise_strides=[1, 2], stackwise_block_types=["fused", "unfused"],
        stackwise_force_input_filters=[0, 0], stackwise_nores_option=[False, False],
        num_features=16, input_shape=SHAPE,
    )  # fmt: skip
    return M.EfficientNetImageClassifier(backbone=backbone, num_classes=CLASSES, preprocessor=None)


def _vgg(depth):
    backbone = M.VGGBackbone(
        stackwise_num_repeats=[depth] * 2, stackwise_num_filters=[8, 16], image_shape=SHAPE
    )
    return M.VGGImageClassifier(
        backbone=backbone, num_classes=CLASSES, pooling_hidden_dim=8, preprocessor=None
    )


def _deep_lab(depth):
    backbone = M.DeepLabV3Backbone(
        image_encoder=res_net(depth, shape=OF_ANY_SIZE), projection_filters=8,
        low_level_feature_key="P2", spatial_pyramid_pooling_key="P5", upsampling_size=8,
        dilation_rates=[1, 2, 3], image_shape=SHAPE,
    )  # fmt: skip
    return M.DeepLabV3ImageSegmenter(backbone=backbone, num_classes=CLASSES, preprocessor=None)


def _seg_former(depth):
    backbone = M.SegFormerBackbone(image_encoder=_mit(depth), projection_filters=8)
    return M.SegFormerImageSegmenter(backbone=backbone, num_classes=CLASSES, preprocessor=None)


def _retina_net(depth):
    return M.RetinaNetBackbone(
        image_encoder=res_net(depth, shape=OF_ANY_SIZE), min_level=3, max_level=5, use_p5=True,
        image_shape=SHAPE,
    )  # fmt: skip


def _bas_net(depth):
    return M.BASNetBackbone(
        image_encoder=res_net(depth, shape=OF_ANY_SIZE), num_classes=1, projection_filters=64,
        image_shape=(64, 64, 3),
    )  # fmt: skip


def _depth_anything(depth):
    return M.DepthAnythingBackbone(
        image_encoder=_dino(depth), reassemble_factors=[2] * depth, neck_hidden_dims=[8] * depth,
        fusion_hidden_dim=8, head_hidden_dim=4, head_in_index=-1,
        feature_keys=[f"stage{i + 1}" for i in range(depth)],
    )  # fmt: skip


def _d_fine(depth):
    return M.DFineBackbone(
        backbone=_hg_net(2, OF_ANY_SIZE, out_features=["stage1", "stage2"]),
        decoder_in_channels=[16, 16], encoder_hidden_dim=16, num_labels=CLASSES, num_denoising=0,
        learn_initial_query=False, num_queries=4, anchor_image_size=SHAPE[:2], feat_strides=[4, 8],
        num_feature_levels=2, hidden_dim=16, encoder_in_channels=[16, 16], encode_proj_layers=[1],
        num_attention_heads=2, encoder_ffn_dim=16, num_encoder_layers=1, hidden_expansion=0.5,
        depth_multiplier=0.5, eval_idx=-1, num_decoder_layers=depth, decoder_attention_heads=2,
        decoder_ffn_dim=16, decoder_n_points=[2, 2], lqe_hidden_dim=8, num_lqe_layers=2,
        out_features=["stage1", "stage2"], image_shape=SHAPE, seed=0,
    )  # fmt: skip


def _sam(depth):
    return M.SAMBackbone(
        image_encoder=_vit_det(depth),
        prompt_encoder=keras_hub.layers.SAMPromptEncoder(
            hidden_size=8, image_embedding_size=(4, 4), input_image_size=(32, 32),
            mask_in_channels=4,
        ),
        mask_decoder=keras_hub.layers.SAMMaskDecoder(
            num_layers=depth, hidden_size=8, intermediate_dim=16, num_heads=2, embedding_dim=8,
            num_multimask_outputs=3, iou_head_depth=2, iou_head_hidden_dim=8,
        ),
    )  # fmt: skip


def _sam3(depth):
    layers, sizes = keras_hub.layers, {"hidden_dim": 16, "intermediate_dim": 32, "num_heads": 2}
    return M.SAM3PromptableConceptBackbone(
        vision_encoder=layers.SAM3VisionEncoder(
            image_shape=SHAPE, patch_size=8, num_layers=depth, **sizes, fpn_hidden_dim=16,
            fpn_scale_factors=[4.0, 2.0, 1.0, 0.5], pretrain_image_shape=SHAPE, window_size=2,
            global_attn_indexes=[depth - 1],
        ),
        text_encoder=layers.SAM3TextEncoder(
            vocabulary_size=60, embedding_dim=16, num_layers=depth, **sizes
        ),
        geometry_encoder=layers.SAM3GeometryEncoder(num_layers=depth, **sizes, roi_size=3),
        detr_encoder=layers.SAM3DetrEncoder(num_layers=depth, **sizes),
        detr_decoder=layers.SAM3DetrDecoder(
            image_shape=SHAPE, patch_size=8, num_layers=depth, **sizes, num_queries=4
        ),
        mask_decoder=layers.SAM3MaskDecoder(num_upsampling_stages=3, hidden_dim=16, num_heads=2),
    )  # fmt: skip


def _par_seq(depth):
    encoder = M.ViTBackbone(
        image_shape=SHAPE, patch_size=16, num_layers=depth, num_heads=2, hidden_dim=16, mlp_dim=32,
        use_class_token=False, name="encoder",
    )  # fmt: skip
    return M.PARSeqBackbone(  # its task needs a preprocessor
        image_encoder=encoder, vocabulary_size=60, max_label_length=8, decoder_hidden_dim=16,
        num_decoder_layers=depth, num_decoder_heads=2, decoder_mlp_dim=32,
    )  # fmt: skip


def _video_prism(depth):
    return M.VideoPrismBackbone(
        num_frames=2, patch_size=16, hidden_dim=16, intermediate_dim=32, num_heads=2,
        num_spatial_layers=depth, num_temporal_layers=depth, num_auxiliary_layers=0,
        image_shape=SHAPE,
    )  # fmt: skip


def _flux(depth):
    return M.FluxBackbone(
        input_channels=8, hidden_size=16, mlp_ratio=2.0, num_heads=2, depth=depth,
        depth_single_blocks=depth, axes_dim=[2, 2, 4], theta=10_000, use_bias=True,
        image_shape=(16, 8), text_shape=(8, 8), image_ids_shape=(16, 3), text_ids_shape=(8, 3),
        y_shape=(8,),
    )  # fmt: skip


def _stable_diffusion(depth):
    from keras_hub.src.models.vae.vae_backbone import VAEBackbone

    def text(name, width):
        return M.CLIPTextEncoder(
            vocabulary_size=60, embedding_dim=width, hidden_dim=width, num_layers=2, num_heads=2,
            intermediate_dim=16, intermediate_activation="gelu", intermediate_output_index=-2,
            max_sequence_length=8, name=name,
        )  # fmt: skip

    return M.StableDiffusion3Backbone(
        mmdit_patch_size=2, mmdit_hidden_dim=16, mmdit_num_layers=depth, mmdit_num_heads=2,
        mmdit_position_size=16, mmdit_qk_norm=None, mmdit_dual_attention_indices=None,
        vae=VAEBackbone([32] * 4, [1] * 4, [32] * 4, [1] * 4, image_shape=SHAPE, name="vae"),
        clip_l=text("clip_l", 16), clip_g=text("clip_g", 16), image_shape=SHAPE,
    )  # fmt: skip


IMAGES = {
    "DeiT": classifier(
        "DeiT", patch_size=16, num_layers=same, num_heads=2, hidden_dim=16, intermediate_dim=32
    ),
    "DINOv2": _dino,
    "DINOv3": lambda depth: M.DINOV3Backbone(16, depth, 16, 2, 32, image_shape=SHAPE),
    "MiT": lambda depth: M.MiTImageClassifier(
        backbone=_mit(depth), num_classes=CLASSES, preprocessor=None
    ),
    "SegFormer": _seg_former,
    "Swin": classifier(
        "SwinTransformer", embed_dim=8, depths=twice, num_heads=[1, 2], window_size=4
    ),
    "ViT": classifier(
        "ViT", patch_size=16, num_layers=same, num_heads=2, hidden_dim=16, mlp_dim=32
    ),
    "ViTDet": _vit_det,
    "SAM": _sam,
    "SAM 3": _sam3,
    "VideoPrism": _video_prism,
    "PARSeq": _par_seq,
    "D-FINE": _d_fine,
    "Depth Anything": _depth_anything,
    "BASNet": _bas_net,
    "CSPNet": classifier(
        "CSPNet", stem_filters=8, stem_kernel_size=3, stem_strides=1, stackwise_depth=twice,
        stackwise_strides=[1, 2], stackwise_num_filters=[8, 16], block_type="dark_block",
        stage_type="dark",
    ),
    "DeepLabV3": _deep_lab,
    "DenseNet": classifier("DenseNet", stackwise_num_repeats=twice, growth_rate=4),
    "EfficientNet": _efficient_net,
    "HGNetV2": _hg_net_classifier,
    "MobileNet": _mobile_net,
    "MobileNetV5": _mobile_net_v5,
    "ResNet": lambda depth: M.ResNetImageClassifier(
        backbone=res_net(depth, 2), num_classes=CLASSES, preprocessor=None
    ),
    "RetinaNet": _retina_net,
    "VGG": _vgg,
    "Xception": classifier(
        "Xception", stackwise_conv_filters=lambda depth: [[8, 8], *[[8, 8]] * depth],
        stackwise_pooling=lambda depth: [True] + [False] * depth,
    ),
    "Flux": _flux,
    "Stable Diffusion 3": _stable_diffusion,
}  # fmt: skip
