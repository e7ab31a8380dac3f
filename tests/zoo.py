"""Small Keras 3 models, one construct each, with seeded weights.

`python tests/zoo.py [names...]` converts them and prints, per construct, the route taken, the
float32 SNR against Keras and the TFLite operators.
"""

from __future__ import annotations

import sys
import time
import zlib

# What TFLite cannot express at all, and why.
IMPOSSIBLE = {
    "text_vectorization": "TFLite cannot split strings",
    "hashing_int": "the hash is of the number's decimal text",
    "hashed_crossing": "the hash is of the numbers' decimal texts",
    "clahe": "grey levels on the edge of a histogram bin fall to either side by a rounding",
}


def models() -> dict:
    """Name -> function that builds the model."""
    import keras
    import numpy as np
    from keras import Input, Model, Sequential, layers, ops

    L = layers

    def seq(shape, *parts, dtype=None, batch=None):
        given = {"batch_shape": (batch, *shape)} if batch else {"shape": shape}
        return Sequential([Input(dtype=dtype, **given), *parts])

    def fun(shape, f, dtype=None):
        shapes = shape if isinstance(shape, list) else [shape]
        dtypes = dtype if isinstance(dtype, list) else [dtype] * len(shapes)
        xs = [Input(s, dtype=d, name=f"in{i}") for i, (s, d) in
              enumerate(zip(shapes, dtypes, strict=True))]
        return Model(xs, f(*xs))

    def dense_then(f):
        """An op or activation behind a Dense, so that its input has a learned range."""
        return lambda: fun((8,), lambda x: f(L.Dense(12)(x)))

    def image(*parts, shape=(12, 12, 4)):
        return lambda: seq(shape, *parts)

    def words(*parts, length=10, **kw):
        return lambda: seq((length,), L.Embedding(20, 8, **kw), *parts, dtype="int32")

    def steps(*parts, length=10, width=6):
        return lambda: seq((length, width), *parts)

    def volume(*parts):
        return lambda: seq((6, 8, 8, 3), *parts)

    z = {}

    # Dense, convolution
    z["mlp"] = lambda: seq((8,), L.Dense(16, activation="relu"), L.BatchNormalization(),
                           L.Dropout(0.5), L.Dense(4, activation="softmax"))
    z["cnn"] = image(L.Conv2D(8, 3, activation="relu"), L.BatchNormalization(), L.MaxPooling2D(),
                     L.Flatten(), L.Dense(5, activation="softmax"))
    z["dense_3d"] = steps(L.Dense(5, activation="relu"))
    z["einsum_dense"] = steps(L.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="e"))
    z["conv1d"] = steps(L.Conv1D(5, 3, padding="same", activation="relu"))
    z["conv1d_causal"] = steps(L.Conv1D(5, 3, padding="causal", dilation_rate=2))
    z["conv1d_strides"] = steps(L.Conv1D(5, 3, strides=2))
    z["conv1d_groups"] = steps(L.Conv1D(6, 3, groups=2))
    z["conv2d_strides"] = image(L.Conv2D(5, 3, strides=2, padding="same"))
    z["conv2d_dilated"] = image(L.Conv2D(5, 3, dilation_rate=2, padding="same"))
    z["conv2d_groups"] = image(L.Conv2D(8, 3, groups=4, activation="relu"))
    z["conv2d_channels_first"] = image(
        L.Conv2D(5, 3, data_format="channels_first", padding="same", strides=2), shape=(3, 12, 12))
    z["conv3d"] = volume(L.Conv3D(4, 3, activation="relu"))
    z["conv3d_strides"] = volume(L.Conv3D(4, 3, strides=2, padding="same"))
    z["conv3d_dilated"] = volume(L.Conv3D(4, 2, dilation_rate=2))
    z["conv3d_groups"] = lambda: seq((5, 6, 6, 4), L.Conv3D(4, 2, groups=2))
    z["depthwise1d"] = steps(L.DepthwiseConv1D(3, depth_multiplier=2, strides=2, padding="same"))
    z["depthwise1d_dilated"] = steps(L.DepthwiseConv1D(3, dilation_rate=2))
    z["depthwise2d"] = image(L.DepthwiseConv2D(3, padding="same", activation="relu6"))
    z["depthwise2d_multiplier"] = image(L.DepthwiseConv2D(3, depth_multiplier=2, strides=2))
    z["depthwise2d_dilated"] = image(L.DepthwiseConv2D(3, dilation_rate=2, padding="same"))
    z["separable1d"] = steps(L.SeparableConv1D(5, 3, padding="same"))
    z["separable2d"] = image(L.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2))
    z["conv1d_transpose"] = steps(L.Conv1DTranspose(5, 3, strides=2, padding="same"))
    z["conv2d_transpose"] = image(L.Conv2DTranspose(5, 3, strides=2, padding="same"))
    z["conv2d_transpose_valid"] = image(L.Conv2DTranspose(5, 4, strides=3, output_padding=1))
    z["conv2d_transpose_dilated"] = image(L.Conv2DTranspose(5, 3, dilation_rate=2))
    z["conv3d_transpose"] = volume(L.Conv3DTranspose(4, 3, strides=2, padding="same"))
    z["conv3d_transpose_valid"] = volume(L.Conv3DTranspose(4, 3, strides=1))

    z["depthwise2d_strided_dilated"] = image(L.DepthwiseConv2D(
        3, strides=2, dilation_rate=2, padding="same"))
    z["separable2d_dilated"] = image(L.SeparableConv2D(5, 3, dilation_rate=2))
    z["conv2d_valid_strides3"] = image(L.Conv2D(5, (2, 4), strides=(3, 1), use_bias=False))
    z["text_cnn"] = words(L.Conv1D(8, 3, activation="relu"), L.GlobalMaxPooling1D(), L.Dense(2))

    # Pooling, reshaping
    for d, make in ((1, steps), (2, image), (3, volume)):
        for kind in ("Max", "Average"):
            pool = getattr(L, f"{kind}Pooling{d}D")
            z[f"{kind.lower()}pool{d}d"] = make(pool(2))
            z[f"{kind.lower()}pool{d}d_same"] = make(pool(3, strides=2, padding="same"))
            z[f"global_{kind.lower()}pool{d}d"] = make(getattr(L, f"Global{kind}Pooling{d}D")())
            z[f"adaptive_{kind.lower()}pool{d}d"] = make(
                getattr(L, f"Adaptive{kind}Pooling{d}D")((4, 3, 3)[:d] if d > 1 else 4))
        z[f"upsampling{d}d"] = make(getattr(L, f"UpSampling{d}D")(2))
        z[f"zeropad{d}d"] = make(getattr(L, f"ZeroPadding{d}D")(2))
        z[f"cropping{d}d"] = make(getattr(L, f"Cropping{d}D")(1))
    z["global_avgpool2d_keepdims"] = image(L.GlobalAveragePooling2D(keepdims=True), L.Conv2D(3, 1))
    z["maxpool2d_channels_first"] = image(L.MaxPooling2D(data_format="channels_first"))
    z["upsampling2d_bilinear"] = image(L.UpSampling2D(2, interpolation="bilinear"))
    z["upsampling2d_bicubic"] = image(L.UpSampling2D(2, interpolation="bicubic"))
    z["upsampling2d_lanczos"] = image(L.UpSampling2D(2, interpolation="lanczos3"))
    z["reshape"] = image(L.Reshape((-1, 4)), L.Dense(3))
    z["permute"] = steps(L.Permute((2, 1)), L.Dense(3))
    z["repeat_vector"] = lambda: seq((8,), L.RepeatVector(3), L.Dense(4))
    z["flatten_channels_first"] = image(L.Flatten(data_format="channels_first"), L.Dense(3))
    z["masking_flatten"] = steps(L.Masking(), L.Dense(3))

    # Normalization
    z["batchnorm_alone"] = image(L.BatchNormalization(), L.Activation("relu"))
    z["batchnorm_axis1"] = image(L.BatchNormalization(axis=1))
    z["layernorm"] = steps(L.LayerNormalization())
    z["layernorm_axes"] = image(L.LayerNormalization(axis=[1, 2, 3]))
    z["rmsnorm"] = steps(L.RMSNormalization())
    z["groupnorm"] = image(L.GroupNormalization(2))
    z["instancenorm"] = image(L.GroupNormalization(-1))
    z["unitnorm"] = steps(L.UnitNormalization())
    z["spectralnorm"] = image(L.SpectralNormalization(L.Conv2D(4, 3)))
    z["spectralnorm_dense"] = lambda: seq((8,), L.SpectralNormalization(L.Dense(4)))

    # Activations
    for name in ("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "softplus", "softsign",
                 "soft_shrink", "hard_shrink", "sparse_plus", "silu", "squareplus", "gelu", "glu",
                 "tanh", "tanh_shrink", "hard_tanh", "sigmoid", "exponential", "hard_sigmoid",
                 "log_sigmoid", "sparse_sigmoid", "hard_silu", "mish", "log_softmax", "softmax",
                 "sparsemax"):
        z[f"act_{name}"] = dense_then(L.Activation(name))
    z["act_gelu_tanh"] = dense_then(lambda x: ops.gelu(x, approximate=True))
    z["act_threshold"] = dense_then(lambda x: ops.threshold(x, 0.1, -0.5))
    z["layer_prelu"] = image(L.Conv2D(4, 3), L.PReLU(shared_axes=[1, 2]))
    z["layer_prelu_full"] = image(L.PReLU())
    z["layer_leaky_relu"] = image(L.Conv2D(4, 3), L.LeakyReLU(0.1))
    z["layer_elu"] = image(L.Conv2D(4, 3), L.ELU(0.7))
    z["layer_relu_all"] = image(L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.3))
    z["layer_softmax_axes"] = image(L.Softmax(axis=[1, 2]))
    z["layer_softmax_axis1"] = steps(L.Softmax(axis=1))

    # Recurrent
    for cell in ("LSTM", "GRU", "SimpleRNN"):
        make, low = getattr(L, cell), cell.lower()
        z[low] = steps(make(8))
        z[f"{low}_sequences"] = steps(make(8, return_sequences=True), make(4))
        z[f"{low}_backwards"] = steps(make(8, go_backwards=True, return_sequences=True))
        z[f"{low}_bidirectional"] = steps(L.Bidirectional(make(5, return_sequences=True)),
                                          L.Bidirectional(make(4), merge_mode="sum"))
        z[f"{low}_masked"] = words(make(8), mask_zero=True)
        z[f"{low}_masking_layer"] = steps(L.Masking(0.0), make(8, return_sequences=True))
        z[f"{low}_stateful"] = lambda make=make: seq((6, 5), make(4, stateful=True), batch=1)
        z[f"{low}_state"] = lambda make=make: fun(
            (6, 5), lambda x: list(make(4, return_state=True)(x)))
        z[f"{low}_unroll"] = steps(make(6, unroll=True))
        z[f"{low}_nobias"] = steps(make(6, use_bias=False))
        z[f"{low}_relu"] = steps(make(6, activation="relu"))
        z[f"{low}_long"] = steps(make(6), length=150, width=4)
    z["gru_reset_before"] = steps(L.GRU(8, reset_after=False))
    z["lstm_bidirectional_masked"] = words(L.Bidirectional(L.LSTM(8)), mask_zero=True)
    z["lstm_hard_sigmoid"] = steps(L.LSTM(6, recurrent_activation="hard_sigmoid"))
    z["lstm_initial_state"] = lambda: fun(
        [(6, 5), (4,), (4,)], lambda x, h, c: L.LSTM(4)(x, initial_state=[h, c]))
    z["encoder_decoder"] = lambda: fun([(6, 5), (7, 3)], lambda x, y: L.Dense(3)(
        L.LSTM(4, return_sequences=True)(y, initial_state=L.LSTM(4, return_state=True)(x)[1:])))
    z["rnn_cells"] = steps(L.RNN([L.LSTMCell(4), L.GRUCell(5)], return_sequences=True))
    z["rnn_stacked"] = steps(L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.SimpleRNNCell(5)])))
    z["convlstm1d"] = lambda: seq((4, 8, 3), L.ConvLSTM1D(4, 3, padding="same"))
    z["convlstm2d"] = lambda: seq((4, 8, 8, 3), L.ConvLSTM2D(4, 3, return_sequences=True))
    z["convlstm3d"] = lambda: seq((3, 4, 4, 4, 2), L.ConvLSTM3D(2, 3, padding="same"))
    z["time_distributed"] = lambda: seq((4, 8, 8, 3), L.TimeDistributed(L.Conv2D(4, 3)),
                                        L.TimeDistributed(L.GlobalAveragePooling2D()), L.LSTM(4))

    for merge in ("sum", "mul", "ave"):
        z[f"bidirectional_{merge}"] = lambda merge=merge: seq(
            (15, 4), L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode=merge))
    z["bidirectional_none"] = lambda: fun((6, 4), lambda x: list(
        L.Bidirectional(L.LSTM(3), merge_mode=None)(x)))
    z["convlstm2d_backwards"] = lambda: seq(
        (4, 6, 6, 2), L.ConvLSTM2D(3, 3, padding="same", go_backwards=True, return_sequences=True))
    z["time_distributed_dense"] = steps(L.TimeDistributed(L.Dense(3, activation="relu")))
    z["crnn"] = lambda: seq((16, 24, 1), L.Conv2D(4, 3, padding="same", activation="relu"),
                            L.MaxPooling2D(), L.Permute((2, 1, 3)), L.Reshape((12, 32)),
                            L.Bidirectional(L.LSTM(6, return_sequences=True)),
                            L.Dense(5, activation="softmax"))

    # Embedding, attention
    z["embedding"] = words(L.GlobalAveragePooling1D(), L.Dense(3))
    z["embedding_masked_mean"] = words(L.GlobalAveragePooling1D(), L.Dense(3), mask_zero=True)
    z["reversible_embedding"] = lambda: tied(L.ReversibleEmbedding(20, 8))

    def tied(layer):
        x = Input((6,), dtype="int32")
        return Model(x, layer(L.Dense(8)(layer(x)), reverse=True))

    def attend(**kw):
        return lambda: fun((6, 8), lambda x: L.MultiHeadAttention(2, 4)(x, x, **kw))

    z["mha"] = attend()
    z["mha_causal"] = attend(use_causal_mask=True)
    z["mha_dropout_causal"] = lambda: fun((6, 8), lambda x: L.MultiHeadAttention(
        2, 4, dropout=0.1)(x, x, use_causal_mask=True))
    z["mha_scores"] = lambda: fun((6, 8), lambda x: list(L.MultiHeadAttention(2, 4)(
        x, x, return_attention_scores=True)))
    z["mha_cross"] = lambda: fun([(6, 8), (5, 7)], lambda x, y: L.MultiHeadAttention(
        2, 4, value_dim=3, output_shape=5)(x, y))
    z["mha_mask_input"] = lambda: fun([(6, 8), (6, 6)], lambda x, m: L.MultiHeadAttention(2, 4)(
        x, x, attention_mask=m), dtype=["float32", "bool"])
    z["mha_2d_axes"] = lambda: fun((4, 5, 8), lambda x: L.MultiHeadAttention(
        2, 4, attention_axes=(1, 2))(x, x))
    z["mha_padded"] = lambda: fun((8,), lambda t: padded(L.Embedding(20, 8, mask_zero=True)(t)),
                                  dtype="int32")

    def padded(x):
        return L.GlobalAveragePooling1D()(L.MultiHeadAttention(2, 4)(x, x))

    z["gqa"] = lambda: fun((6, 8), lambda x: L.GroupQueryAttention(4, 4, 2)(x, x))
    z["gqa_causal"] = lambda: fun((6, 8), lambda x: L.GroupQueryAttention(4, 4, 2)(
        x, x, use_causal_mask=True))
    z["attention"] = lambda: fun([(6, 8), (5, 8)], lambda q, v: L.Attention(use_scale=True)([q, v]))
    z["attention_causal"] = lambda: fun((6, 8), lambda x: L.Attention()(
        [x, x], use_causal_mask=True))
    z["attention_concat"] = lambda: fun((6, 8), lambda x: L.Attention(score_mode="concat")([x, x]))
    z["additive_attention"] = lambda: fun([(6, 8), (5, 8)],
                                          lambda q, v: L.AdditiveAttention()([q, v]))
    z["attention_masked"] = lambda: fun((8,), lambda t: L.Attention()(
        [L.Embedding(20, 8, mask_zero=True)(t)] * 2), dtype="int32")
    z["softmax_masked"] = lambda: fun([(6, 6), (6, 6)], lambda x, m: L.Softmax()(x, mask=m),
                                      dtype=["float32", "bool"])

    z["mha_sliding"] = lambda: fun((9, 8), lambda x: L.MultiHeadAttention(
        2, 4, sliding_window=3)(x, x))
    z["mha_gated"] = lambda: fun((6, 8), lambda x: L.MultiHeadAttention(2, 4, use_gate=True)(x, x))
    z["additive_attention_masked"] = lambda: fun((8,), lambda t: L.AdditiveAttention()(
        [L.Embedding(20, 8, mask_zero=True)(t)] * 2), dtype="int32")

    def block(x, causal):
        a = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=causal)
        x = L.LayerNormalization()(L.Add()([x, a]))
        f = L.Dense(8)(L.Dense(16, activation="gelu")(x))
        return L.LayerNormalization()(L.Add()([x, f]))

    def transformer(t):
        x = L.Embedding(20, 8)(t) + L.Embedding(10, 8)(ops.arange(10))
        return L.Dense(20)(block(block(x, True), True))

    z["transformer_decoder"] = lambda: fun((10,), transformer, dtype="int32")
    z["transformer_encoder"] = lambda: fun(
        (10, 8), lambda x: L.Dense(3)(L.GlobalAveragePooling1D()(block(x, False))))

    # Merging
    for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"):
        z[name.lower()] = lambda name=name: fun([(6, 8), (6, 8)], lambda a, b: getattr(L, name)()(
            [L.Dense(5)(a), L.Dense(5)(b)]))
    z["dot"] = lambda: fun([(6, 8), (5, 8)], lambda a, b: L.Dot(axes=2)([a, b]))
    z["dot_normalized"] = lambda: fun([(8,), (8,)], lambda a, b: L.Dot(1, normalize=True)([a, b]))
    z["broadcast_add"] = lambda: fun([(6, 8), (1, 8)], lambda a, b: L.Add()([a, b]))

    # Preprocessing and regularization
    z["rescaling"] = lambda: seq((8, 8, 3), L.Rescaling(1 / 255, -0.5), L.Conv2D(3, 3),
                                 dtype="uint8")
    z["normalization"] = lambda: seq((5,), L.Normalization(mean=[1., 2, 3, 4, 5],
                                                           variance=[1., 4, 9, 1, 2]), L.Dense(2))
    z["normalization_invert"] = lambda: seq((5,), L.Normalization(mean=1.0, variance=3.0,
                                                                  invert=True))
    z["discretization"] = lambda: seq((5,), L.Discretization([-1.0, 0.0, 0.5]))
    z["discretization_onehot"] = lambda: seq((5,), L.Discretization(
        [-1.0, 0.0, 0.5], output_mode="multi_hot"))
    for mode in ("one_hot", "multi_hot", "count"):
        z[f"category_{mode}"] = lambda mode=mode: seq((1 if mode == "one_hot" else 4,),
            L.CategoryEncoding(10, output_mode=mode), L.Dense(3), dtype="int32")
    z["integer_lookup"] = lambda: seq((4,), L.IntegerLookup(vocabulary=[3, 5, 7, 1]), dtype="int32")
    z["integer_lookup_multihot"] = lambda: seq((4,), L.IntegerLookup(
        vocabulary=[3, 5, 7, 1], output_mode="multi_hot"), dtype="int32")
    z["hashing_int"] = lambda: seq((4,), L.Hashing(5), dtype="int32")
    z["hashed_crossing"] = lambda: fun([(1,), (1,)], lambda a, b: L.HashedCrossing(5)((a, b)),
                                       dtype="int32")
    z["text_vectorization"] = lambda: seq((1,), L.TextVectorization(
        vocabulary=["a", "b"], output_sequence_length=4), dtype="string")
    z["pipeline"] = lambda: seq((8, 8, 3), L.Pipeline([L.Rescaling(1 / 255), L.RandomFlip()]),
                                L.Conv2D(3, 3))
    z["string_lookup"] = lambda: seq((2,), L.StringLookup(vocabulary=["a", "b"]), dtype="string")
    for mode in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        z[f"resizing_{mode}"] = image(L.Resizing(9, 17, interpolation=mode))
    z["resizing_area"] = image(L.Resizing(6, 4, interpolation="area"))
    z["resizing_crop"] = image(L.Resizing(7, 7, crop_to_aspect_ratio=True), shape=(12, 10, 3))
    z["resizing_pad"] = image(L.Resizing(7, 9, pad_to_aspect_ratio=True), shape=(12, 10, 3))
    z["centercrop"] = image(L.CenterCrop(7, 5))
    z["centercrop_small"] = image(L.CenterCrop(20, 30))
    z["solarization"] = lambda: seq((8, 8, 3), L.Rescaling(40.0, 100.0), L.Solarization(0.5, 0.1))
    z["auto_contrast"] = lambda: seq((8, 8, 3), L.Rescaling(40.0, 100.0), L.AutoContrast())
    z["clahe"] = lambda: seq((16, 16, 3), L.ContrastLimitedAdaptiveHistogramEqualization(
        value_range=(0, 255), tile_grid_size=(2, 2)), dtype="uint8")
    z["mel_spectrogram"] = lambda: seq((600,), L.MelSpectrogram(
        num_mel_bins=12, fft_length=128, sequence_stride=64))
    z["stft_spectrogram"] = lambda: seq((400, 1), L.STFTSpectrogram(
        mode="log", frame_length=64, frame_step=32, fft_length=128))
    z["stft_phase"] = lambda: seq((400, 1), L.STFTSpectrogram(
        mode="real", frame_length=64, frame_step=32, fft_length=128, padding="same"))
    randoms = {
        "RandomBrightness": (0.2,), "RandomColorDegeneration": (0.5,), "RandomColorJitter": (),
        "RandomContrast": (0.2,), "RandomElasticTransform": (), "RandomErasing": (),
        "RandomFlip": (), "RandomGaussianBlur": (), "RandomGrayscale": (), "RandomHue": (0.2,),
        "RandomInvert": (), "RandomPerspective": (), "RandomPosterization": (4,),
        "RandomRotation": (0.1,), "RandomSaturation": (0.2,), "RandomSharpness": (0.2,),
        "RandomShear": (), "RandomTranslation": (0.1, 0.1), "RandomZoom": (0.1,), "MixUp": (),
        "CutMix": (), "RandAugment": (), "AugMix": (), "RandomCrop": (12, 12),
    }
    for name, args in randoms.items():
        z[f"random_{name}"] = lambda name=name, args=args: seq(
            (12, 12, 3), getattr(L, name)(*args), L.Conv2D(4, 3))
    z["random_crop_resize"] = image(L.RandomCrop(9, 8), L.Conv2D(3, 3), shape=(12, 12, 3))
    z["augmented"] = lambda: seq((12, 12, 3), Sequential([
        L.RandomFlip(), L.RandomRotation(0.1), L.RandomZoom(0.2)]), L.Rescaling(1 / 255),
        L.Conv2D(4, 3, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(3))
    for name, args in {"Dropout": (0.5,), "SpatialDropout2D": (0.5,), "GaussianDropout": (0.5,),
                       "GaussianNoise": (0.5,), "AlphaDropout": (0.5,),
                       "ActivityRegularization": (0.1,), "Identity": ()}.items():
        z[f"reg_{name.lower()}"] = image(getattr(L, name)(*args), L.Conv2D(3, 3))

    # keras.ops in functional graphs
    z.update(_op_models(dense_then, fun, L, ops, np))
    z.update(_topologies(seq, fun, L, ops, keras))
    return z


def _op_models(dense_then, fun, L, ops, np) -> dict:
    one = {
        "top_k": lambda x: ops.top_k(x, 3)[0],
        "top_k_indices": lambda x: ops.top_k(x, 3)[1],
        "sort": lambda x: ops.sort(x, axis=-1), "argsort": lambda x: ops.argsort(x, axis=-1),
        "argmax": lambda x: ops.argmax(x, axis=-1), "argmin": lambda x: ops.argmin(x, axis=-1),
        "cumsum": lambda x: ops.cumsum(x, axis=-1), "cumprod": lambda x: ops.cumprod(x, axis=-1),
        "where": lambda x: ops.where(x > 0, x, x * 0.1),
        "take": lambda x: ops.take(x, [2, 0, 5], axis=-1),
        "take_along_axis": lambda x: ops.take_along_axis(
            x, ops.argsort(x, axis=-1)[:, :4], axis=-1),
        "roll": lambda x: ops.roll(x, 3, axis=-1), "flip": lambda x: ops.flip(x, axis=-1),
        "pad_reflect": lambda x: ops.pad(x, [[0, 0], [2, 3]], mode="reflect"),
        "pad_symmetric": lambda x: ops.pad(x, [[0, 0], [2, 3]], mode="symmetric"),
        "pad_constant": lambda x: ops.pad(x, [[0, 0], [2, 3]], constant_values=1.5),
        "logsumexp": lambda x: ops.logsumexp(x, axis=-1, keepdims=True),
        "erf": ops.erf, "erfinv": lambda x: ops.erfinv(ops.tanh(x) * 0.9), "exp": ops.exp,
        "expm1": ops.expm1, "log": lambda x: ops.log(ops.abs(x) + 0.1),
        "log1p": lambda x: ops.log1p(ops.abs(x)), "log2": lambda x: ops.log2(ops.abs(x) + 0.1),
        "log10": lambda x: ops.log10(ops.abs(x) + 0.1), "sqrt": lambda x: ops.sqrt(ops.abs(x)),
        "rsqrt": lambda x: ops.rsqrt(ops.abs(x) + 0.1), "square": ops.square, "abs": ops.abs,
        "sign": ops.sign, "floor": ops.floor, "ceil": ops.ceil, "round": ops.round,
        "trunc": ops.trunc, "sin": ops.sin, "cos": ops.cos, "tan": ops.tan,
        "arcsin": lambda x: ops.arcsin(ops.tanh(x)), "arccos": lambda x: ops.arccos(ops.tanh(x)),
        "arctan": ops.arctan, "arctan2": lambda x: ops.arctan2(x, x + 1.0), "sinh": ops.sinh,
        "cosh": ops.cosh, "arcsinh": ops.arcsinh, "arccosh": lambda x: ops.arccosh(ops.exp(x) + 1),
        "arctanh": lambda x: ops.arctanh(ops.tanh(x) * 0.9), "reciprocal": lambda x: 1 / (x + 5),
        "power": lambda x: ops.power(ops.abs(x) + 0.1, 1.7), "clip": lambda x: ops.clip(x, -1, 1),
        "maximum": lambda x: ops.maximum(x, -x), "minimum": lambda x: ops.minimum(x, 0.3),
        "mod": lambda x: ops.mod(x, 0.7), "floor_divide": lambda x: ops.floor_divide(x, 0.7),
        "fmod": lambda x: x % 0.7, "negative": ops.negative,
        "sum": lambda x: ops.sum(x, axis=-1), "prod": lambda x: ops.prod(x, axis=-1),
        "mean": lambda x: ops.mean(x, axis=-1), "var": lambda x: ops.var(x, axis=-1),
        "std": lambda x: ops.std(x, axis=-1, keepdims=True), "max": lambda x: ops.max(x, axis=-1),
        "min": lambda x: ops.min(x, axis=-1), "median": lambda x: ops.median(x, axis=-1),
        "quantile": lambda x: ops.quantile(x, 0.3, axis=-1),
        "any": lambda x: ops.any(x > 1, axis=-1), "all": lambda x: ops.all(x > -1, axis=-1),
        "norm": lambda x: ops.norm(x, axis=-1), "normalize": lambda x: ops.normalize(x, axis=-1),
        "l2_normalize_3": lambda x: ops.normalize(x, axis=-1, order=3),
        "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 12),
        "multi_hot": lambda x: ops.multi_hot(ops.top_k(x, 3)[1], 12),
        "split": lambda x: ops.add(*ops.split(x, 2, axis=-1)),
        "stack": lambda x: ops.stack([x, x + 1], axis=1),
        "unstack": lambda x: list(ops.unstack(ops.reshape(x, (-1, 3, 4)), axis=1)),
        "repeat": lambda x: ops.repeat(x, 2, axis=-1), "tile": lambda x: ops.tile(x, [1, 2]),
        "expand_squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
        "swapaxes": lambda x: ops.swapaxes(ops.reshape(x, (-1, 3, 4)), 1, 2),
        "moveaxis": lambda x: ops.moveaxis(ops.reshape(x, (-1, 3, 4)), 1, -1),
        "slice": lambda x: x[:, 2:9:2], "slice_ellipsis": lambda x: x[..., -3:],
        "slice_reverse": lambda x: x[:, ::-1], "newaxis": lambda x: x[:, None, :],
        "matmul": lambda x: ops.matmul(ops.reshape(x, (-1, 3, 4)), ops.reshape(x, (-1, 4, 3))),
        "einsum": lambda x: ops.einsum("bij,bjk->bik", ops.reshape(x, (-1, 3, 4)),
                                       ops.reshape(x, (-1, 4, 3))),
        "einsum_outer": lambda x: ops.einsum("bi,bj->bij", x, x),
        "tensordot": lambda x: ops.tensordot(x, np.ones((12, 3), "float32"), axes=1),
        "outer": lambda x: ops.multiply(x[:, :, None], x[:, None, :]),
        "cross": lambda x: ops.cross(x[:, :3], x[:, 3:6]),
        "dot": lambda x: ops.dot(x, ops.ones((12, 2))),
        "tril": lambda x: ops.tril(ops.reshape(x, (-1, 3, 4))),
        "triu": lambda x: ops.triu(ops.reshape(x, (-1, 3, 4))),
        "diagonal": lambda x: ops.diagonal(ops.reshape(x, (-1, 3, 4)), axis1=1, axis2=2),
        "trace": lambda x: ops.trace(ops.reshape(x, (-1, 3, 4)), axis1=1, axis2=2),
        "meshgrid": lambda x: x[:, :3] * ops.meshgrid(ops.arange(3.0), ops.arange(2.0))[0][1],
        "broadcast_to": lambda x: ops.broadcast_to(x[:, None], (1, 3, 12)),
        "full_like": lambda x: x + ops.full_like(x, 2),
        "zeros_like": lambda x: x + ops.ones_like(x),
        "logical": lambda x: ops.cast(ops.logical_xor(x > 0, ops.logical_not(x > 1)), "float32"),
        "cast_int": lambda x: ops.cast(x * 3, "int32"),
        "isnan": lambda x: ops.where(ops.isnan(x), 0., x),
        "nan_to_num": ops.nan_to_num,
        "digitize": lambda x: ops.digitize(x, np.array([-1.0, 0.0, 1.0], "float32")),
        "bincount": lambda x: ops.bincount(ops.cast(ops.abs(x) * 2, "int32"), minlength=12),
        "segment_sum": lambda x: ops.segment_sum(x[0], np.repeat(np.arange(6), 2), 6),
        "searchsorted": lambda x: ops.searchsorted(np.array([-1., 0, 1], "float32"), x[0]),
        "scatter_update": lambda x: ops.scatter_update(x[0], [[1], [3]], [9.0, 8.0]),
        "slice_update": lambda x: ops.slice_update(x, [0, 2], ops.ones((1, 3))),
        "dynamic_slice": lambda x: ops.slice(x, [0, 2], [1, 5]),
        "logaddexp": lambda x: ops.logaddexp(x, -x), "hypot": lambda x: ops.hypot(x, x + 1),
        "diff": lambda x: ops.diff(x, axis=-1), "average": lambda x: ops.average(
            x, axis=-1, weights=np.arange(1.0, 13.0, dtype="float32")),
        "fft_magnitude": lambda x: ops.sqrt(ops.square(ops.rfft(x, 16)[0])
                                            + ops.square(ops.rfft(x, 16)[1])),
        "associative_scan": lambda x: ops.associative_scan(lambda a, b: a + b, x, axis=1),
        "count_nonzero": lambda x: ops.count_nonzero(ops.relu(x), axis=-1),
        "isclose": lambda x: ops.cast(ops.isclose(x, x + 1e-9), "float32"),
        "nn_normalize_moments": lambda x: ops.concatenate(
            [ops.expand_dims(m, 0) for m in ops.moments(x, axes=[-1])], 0),
        "inv": lambda x: ops.inv(ops.reshape(x[:, :9], (-1, 3, 3)) + 3 * ops.eye(3)),
        "det": lambda x: ops.det(ops.reshape(x[:, :9], (-1, 3, 3)) + 3 * ops.eye(3)),
        "cholesky": lambda x: ops.cholesky(ops.matmul(
            ops.reshape(x, (-1, 3, 4)),
            ops.swapaxes(ops.reshape(x, (-1, 3, 4)), 1, 2)) + ops.eye(3)),
        "solve": lambda x: ops.solve(ops.reshape(x[:, :9], (-1, 3, 3)) + 3 * ops.eye(3),
                                     ops.reshape(x[:, 9:], (-1, 3, 1))),
    }
    z = {f"op_{name}": dense_then(f) for name, f in one.items()}
    z["op_depth_to_space"] = lambda: fun((4, 4, 8), lambda x: ops.depth_to_space(x, 2))
    z["op_space_to_depth"] = lambda: fun((4, 4, 8), lambda x: ops.space_to_depth(x, 2))
    z["op_unfold"] = lambda: fun((3, 6, 6), lambda x: ops.unfold(x, 3))
    z["op_image_patches"] = lambda: fun((12, 12, 3), lambda x: ops.image.extract_patches(x, 4))
    z["op_image_patches_overlap"] = lambda: fun(
        (12, 12, 3), lambda x: ops.image.extract_patches(x, 3, strides=2, padding="same"))
    z["op_rgb_to_gray"] = lambda: fun((6, 6, 3), ops.image.rgb_to_grayscale)
    z["op_rgb_to_hsv"] = lambda: fun((6, 6, 3), lambda x: ops.image.rgb_to_hsv(ops.sigmoid(x)))
    z["op_resize"] = lambda: fun((6, 6, 3), lambda x: ops.image.resize(x, (9, 11)))
    z["op_resize_antialias"] = lambda: fun(
        (12, 12, 3), lambda x: ops.image.resize(x, (5, 6), antialias=True))
    z["op_gaussian_blur"] = lambda: fun((8, 8, 3), ops.image.gaussian_blur)
    z["op_affine"] = lambda: fun((8, 8, 3), lambda x: ops.image.affine_transform(
        x, ops.convert_to_tensor([[1.0, 0.1, 0.5, 0.0, 1.0, 0.2, 0.0, 0.0]])))
    z["op_map_coordinates"] = lambda: fun((8, 8), lambda x: ops.image.map_coordinates(
        x[0], np.array([[1.5, 2.2], [0.5, 3.1]], "float32"), order=1))
    z["op_conv"] = lambda: fun((8, 8, 3), lambda x: ops.conv(
        x, np.ones((3, 3, 3, 2), "float32") / 9))
    z["op_dot_product_attention"] = lambda: fun(
        [(5, 2, 4)] * 3, lambda q, k, v: ops.dot_product_attention(q, k, v, is_causal=True))
    z["op_vectorized_map"] = lambda: fun((5, 4), lambda x: ops.vectorized_map(
        lambda t: ops.sum(t, axis=0), x))
    z["op_while"] = lambda: fun((4,), lambda x: ops.fori_loop(0, 3, lambda i, v: v * 1.1, x))
    z["op_scan"] = lambda: fun((5, 4), lambda x: ops.scan(
        lambda c, t: (c + t, c * t), ops.zeros((4,)), x[0])[1])
    return z


def _topologies(seq, fun, L, ops, keras) -> dict:
    z = {}

    def shared():
        a, b, d = keras.Input((8,)), keras.Input((8,)), L.Dense(4)
        return keras.Model([a, b], L.Concatenate()([d(a), d(b)]))

    def nested():
        inner = keras.Sequential([keras.Input((8,)), L.Dense(6, activation="relu"), L.Dense(4)])
        x = keras.Input((8,))
        return keras.Model(x, L.Dense(2)(inner(x) + inner(x * 2)))

    def residual():
        x = y = keras.Input((8, 8, 4))
        for _ in range(2):
            t = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(y)))
            y = L.ReLU()(L.Add()([y, L.Conv2D(4, 3, padding="same")(t)]))
        s = L.Dense(4, activation="sigmoid")(L.GlobalAveragePooling2D()(y))
        return keras.Model(x, L.Multiply()([y, L.Reshape((1, 1, 4))(s)]))

    def unet():
        x = keras.Input((8, 8, 3))
        d = L.Conv2D(4, 3, padding="same", activation="relu")(x)
        u = L.UpSampling2D()(L.Conv2D(8, 3, padding="same")(L.MaxPooling2D()(d)))
        return keras.Model(x, L.Conv2D(2, 1, activation="sigmoid")(L.Concatenate()([d, u])))

    @keras.saving.register_keras_serializable("zoo")
    class Custom(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 5), name="w")

        def call(self, x, training=None):
            return ops.softplus(ops.matmul(x, self.w)) - ops.mean(x, axis=-1, keepdims=True)

    @keras.saving.register_keras_serializable("zoo")
    class Drawn(keras.layers.Layer):
        """Noise as a variational autoencoder adds it, of size zero, so that it can be compared."""

        def __init__(self, **kw):
            super().__init__(**kw)
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, x, training=None):
            noise = keras.random.normal(ops.shape(x), seed=self.seeds)
            return x + 0 * noise + 0 * keras.random.uniform(ops.shape(x), seed=self.seeds)

    @keras.saving.register_keras_serializable("zoo")
    class Subclassed(keras.Model):
        def __init__(self, **kw):
            super().__init__(**kw)
            self.a, self.b = L.Dense(8, activation="gelu"), L.Dense(3)

        def call(self, x, training=False):
            return self.b(self.a(x))

    def subclassed():
        model = Subclassed()
        model(ops.zeros((1, 6)))
        return model

    def policy(name):
        def build():
            before = keras.config.dtype_policy()
            keras.config.set_dtype_policy(name)
            try:
                return seq((8, 8, 3), L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(),
                           L.GlobalAveragePooling2D(), L.Dense(3, dtype="float32"))
            finally:
                keras.config.set_dtype_policy(before)
        return build

    def one_policy(name, *parts, shape):
        def build():
            before = keras.config.dtype_policy()
            keras.config.set_dtype_policy(name)
            try:
                return seq(shape, *[p() for p in parts])
            finally:
                keras.config.set_dtype_policy(before)
        return build

    z["shared"], z["nested"], z["residual_se"], z["unet"] = shared, nested, residual, unet
    z["custom_layer"] = lambda: seq((8,), Custom(), L.Dense(3))
    z["drawn"] = lambda: seq((8,), L.Dense(4), Drawn(), L.Dense(3))
    z["subclassed"] = subclassed
    z["mixed_float16"], z["mixed_bfloat16"] = policy("mixed_float16"), policy("mixed_bfloat16")
    z["mixed_lstm"] = one_policy("mixed_float16", lambda: L.LSTM(4), lambda: L.Dense(2),
                                 shape=(6, 5))
    z["pure_float16"] = one_policy("float16", lambda: L.Dense(4, activation="relu"),
                                   lambda: L.Dense(2), shape=(6,))
    def quantized(mode):
        def build():
            model = seq((32,), L.Dense(32, activation="relu"), L.Dense(4))
            model.quantize(mode)
            return model
        return build

    z["keras_int8"], z["keras_int4"] = quantized("int8"), quantized("int4")
    z["multi_output"] = lambda: fun((8,), lambda x: [L.Dense(2)(x), L.Dense(3)(x)])
    z["output_is_input"] = lambda: fun((8,), lambda x: [x, L.Dense(3)(x)])
    z["output_twice"] = lambda: fun((8,), lambda x: [x + 1.0] * 2)
    z["dict_io"] = lambda: dict_model()
    z["bool_input"] = lambda: fun([(6,), (6,)], lambda x, m: ops.where(m, x, -x),
                                  dtype=["float32", "bool"])
    z["int_input"] = lambda: fun((6,), lambda x: L.Dense(2)(ops.cast(x, "float32")), dtype="int64")
    z["uint8_image"] = lambda: seq((8, 8, 3), L.Rescaling(1 / 127.5, -1), L.Conv2D(3, 3),
                                   dtype="uint8")
    z["dynamic_shape"] = lambda: seq((None, None, 3), L.Conv2D(4, 3), L.GlobalMaxPooling2D())

    def dict_model():
        a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
        y = L.Concatenate()([a, b])
        return keras.Model({"a": a, "b": b}, {"y": L.Dense(2)(y), "x": L.Dense(3)(y)})
    return z


def build(name: str, make) -> object:
    """The model with weights that are seeded by its name and look trained."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(zlib.crc32(name.encode()) % 2**31)
    model = make()
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for w in model.weights:
        if w.dtype not in ("float32", "float16") or "seed" in w.path or "rnn_state" in w.path:
            continue
        kind = w.path.rsplit("/", 1)[-1]
        if kind in ("mean", "variance", "count"):
            continue
        if "variance" in kind:
            value = rng.uniform(0.5, 2.0, w.shape)
        elif kind in ("gamma", "scale"):
            value = rng.uniform(0.5, 1.5, w.shape)
        elif len(w.shape) < 2:
            value = rng.normal(0, 0.3, w.shape)
        else:
            value = rng.normal(0, 1.0, w.shape) / np.sqrt(np.prod(w.shape[:-1]))
        w.assign(value.astype("float32"))
    return model


def specs(model):
    """Static input specs and output specs of a Keras 3 model."""
    import keras
    import tensorflow as tf

    from tfcompress.artifact import TensorSpec

    if not getattr(model, "inputs", None):
        ins = [TensorSpec("x", (1, *model._build_shapes_dict["input_shape"][1:]), "float32")
               ] if "input_shape" in model._build_shapes_dict else [
            TensorSpec("x", (1, *next(iter(model._build_shapes_dict.values()))[1:]), "float32")]
        return ins, [TensorSpec("output_0", (), "float32")]
    ins = [TensorSpec(t.name, (1, *[d or 12 for d in t.shape[1:]]),
                      keras.backend.standardize_dtype(t.dtype)) for t in model.inputs]
    outs = tf.nest.flatten(model.outputs)
    return ins, [TensorSpec(f"output_{i}", tuple(o.shape), keras.backend.standardize_dtype(o.dtype))
                 for i, o in enumerate(outs)]


def operators(content: bytes) -> dict[str, int]:
    """How often each operator stands in a TFLite file."""
    from collections import Counter

    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    return dict(Counter(codes[op.opcodeIndex] for g in model.subgraphs for op in g.operators))


def convert(name: str, make, folder) -> dict:
    """Build and convert one construct: what `to_tflite` returns, "ops", "seconds", or "error"."""
    from pathlib import Path

    from tfcompress.compress import lower
    from tfcompress.export.tflite import to_tflite

    began = time.monotonic()
    try:
        model = build(name, make)
    except Exception as error:
        return {"error": f"BUILD {type(error).__name__}: {error}"[:300], "seconds": 0}
    ins, outs = specs(model)
    path = Path(folder) / f"{name}.tflite"
    try:
        result = to_tflite(model, path, inputs=ins, outputs=outs, progress=lambda *_: None,
                           lower=lower)
    except Exception as error:
        return {"error": str(error).replace("\n", " ")[:700], "seconds": time.monotonic() - began}
    return result | {"ops": operators(path.read_bytes()), "seconds": time.monotonic() - began}


def main(words: list[str]) -> None:
    import json
    import os
    import tempfile

    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    folder = os.environ.get("ZOO_OUT") or tempfile.mkdtemp()
    os.makedirs(folder, exist_ok=True)
    as_json = "--json" in words
    names = [w for w in words if not w.startswith("-")]
    for name, make in models().items():
        if names and name not in names:
            continue
        if as_json:
            print(json.dumps({"begin": name}), flush=True)
        got = convert(name, make, folder)
        if as_json:
            print(json.dumps({"name": name} | got), flush=True)
        else:
            print(_line(name, got), flush=True)


def _line(name: str, got: dict) -> str:
    if "error" in got:
        return f"{name:28} FAIL {got['seconds']:5.1f}s {got['error']}"
    snr = float(got["snr_db"])
    ops = " ".join(f"{k}:{v}" for k, v in sorted(got["ops"].items()))
    tried = f" tried={got['tried']}" if got["tried"] else ""
    mark = "ok  " if snr >= 60 else "LOW "
    return f"{name:28} {mark} {got['route']:9}{snr:7.1f} {got['seconds']:5.1f}s {ops}{tried}"


if __name__ == "__main__":
    main(sys.argv[1:])
