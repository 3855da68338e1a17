"""The table of ops: what a row says, and one row per op. It is read through graph/ops.py.

A name is the aten op's without its overload; the in-place form (`relu_`) has the row of `relu`. A new op is one entry
here and one test, or at run time `register_op`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Law = Literal[
    "",  # nothing is known
    "view",  # entries of its first operand: rearranged, chosen, masked, averaged over a window
    "power",  # a function of one operand with f(t x) = t^degree f(x) for t > 0
    "bend",  # a function without such a law: what enters must have entries of order one
    "clamp",  # a bend at its bounds alone
    "join",  # operands added or put side by side: they must be of one scale
    "write",  # one operand's entries written into another
    "product",
    "quotient",
    "contract",  # sums of products of two operands
    "attention",
    "recurrent",
    "lookup",  # rows of its first operand, chosen by another
    "sum",
    "scan",  # running sums
    "mean",
    "norm",  # (sum of |x|^p)^(1/p)
    "spread",  # standard deviation (degree 1) or variance (degree 2)
    "extreme",
    "softmax",  # positive entries that sum to one along an axis
    "normalise",  # entries of order one, whatever the operand's scale
    "weight norm",
    "transform",  # a Fourier transform over an axis
    "index",  # comparisons and positions, which have no scale
    "fresh",  # looks at its operands' shapes and types, never at their values
    "end",
]
Layout = Literal[
    "", "same", "reshape", "swap last", "reverse", "swap", "permute", "move", "insert", "squeeze", "drop", "pick",
    "repeat", "place", "pair", "unpair", "hide",
]  # fmt: skip
Consumes = Literal[
    "", "elementwise", "scaled", "linear", "addmm", "matmul", "einsum", "conv", "embedding", "index", "bilinear",
    "recurrent", "inner", "tensordot",
]  # fmt: skip


@dataclass(frozen=True)
class Op:
    """One row.

    law: what it does to scales, see Law; degree: of a power or a spread. positive: no entry of the result is negative.
    layout: how the axes of its first operand travel, "" where it makes new ones; consumes: how it reads the axes of a
    parameter, "" where a parameter that enters it cannot be labelled (see labels).
    factors: positions of the operands multiplied with each other, or of a table and its index; weight, bias: positions
    of operands that scale the result together; summand: position of an operand that is added or written.
    zero: at zero its value is zero with a slope (odd) or without (flat), or it has no slope there (singular).
    adds: closes a residual branch; mixes: in which proportion it adds its first two (three) operands; combines:
    parameters joined by it are still one weight; listed: its operands stand in a list; like: its second operand lends
    only its shape or type; copies: the result is the operand's own values; fill: position of a number that it writes;
    may_copy: a view where the memory allows it; resizes: an image's last axes; transposed: of a convolution;
    per_channel: normalises each channel over all the rest; scale_free: the same at any positive scale of its operand;
    reads: takes a value out of the graph; bounds: one operand is
    a bound of the other; diagonal: writes a vector on one; zeros: the result is zero;
    inverse: of a transform, which then divides by the size unless told otherwise;
    accumulates: adds to the entries that are there; one_hot: a one among zeros.
    """

    law: Law
    degree: float = 1.0
    layout: Layout = ""
    consumes: Consumes = ""
    factors: tuple[int, ...] = ()
    weight: int | None = None
    bias: int | None = None
    summand: int | None = None
    positive: bool = False
    zero: Literal["", "odd", "flat", "singular"] = ""
    adds: bool = False
    mixes: Literal["", "minus", "reversed", "between", "product", "quotient"] = ""
    fill: int | None = None
    combines: bool = False
    listed: bool = False
    like: bool = False
    copies: bool = False
    may_copy: bool = False
    resizes: bool = False
    transposed: bool = False
    per_channel: bool = False
    scale_free: bool = False
    reads: bool = False
    bounds: bool = False
    diagonal: bool = False
    zeros: bool = False
    inverse: bool = False
    accumulates: bool = False
    one_hot: bool = False

    @property
    def passes(self) -> bool:
        """A positive scale of the first operand is the result's, and nothing else in it scales."""
        chosen = self.law == "lookup" and self.weight is None
        return self.law in {"view", "sum", "scan", "mean"} or chosen or (self.law == "power" and self.degree == 1)

    @property
    def pointwise(self) -> bool:
        """A function of each entry (or of a row) that keeps the layout but not the scale."""
        return self.law in {"power", "bend", "clamp", "softmax"} and self.layout == "same"

    @property
    def bookkeeping(self) -> bool:
        return self.law == "fresh"

    @property
    def statistic(self) -> bool:
        """A reduction that a weight is divided by when it is normalised; the weight itself is used elsewhere."""
        return self.law in {"norm", "spread", "extreme"}

    @property
    def multiplies(self) -> bool:
        """Entries of one operand times, or over, the other's, both laid out alike."""
        return self.law in {"product", "quotient"} and self.combines

    @property
    def sums(self) -> bool:
        """Adds or puts side by side what its operands are, and nothing else."""
        return self.law == "join" and self.combines


def _rows(op: Op, names: str) -> dict[str, Op]:
    return dict.fromkeys(names.split(), op)


_VIEW, _SAME, _RESHAPE = Op("view"), Op("view", layout="same"), Op("view", layout="reshape")
_CAST = Op("view", layout="same", copies=True)
_POWER, _BEND = Op("power", layout="same"), Op("bend", layout="same")
_JOIN = Op("join", consumes="elementwise")
_NORM = Op("normalise", consumes="elementwise", weight=2, bias=3)
_PRODUCT = Op("contract", consumes="matmul", factors=(0, 1))
_CONV = Op("contract", consumes="conv", factors=(0, 1), weight=1, bias=2)

TABLE: dict[str, Op] = {
    # what only looks at shapes and types
    **_rows(
        Op("fresh"),
        "_assert_tensor_metadata sym_size _assert_scalar sym_constrain_range_for_size ones_like empty_like full_like "
        "rand_like randn_like randint_like new_ones new_empty new_full size numel sym_numel sym_stride "
        "sym_is_contiguous uniform normal exponential log_normal geometric random cauchy fill",
    ),
    **_rows(Op("fresh", zeros=True), "zeros_like new_zeros zeros"),
    "output": Op("end"),
    # rearrangements
    **_rows(_CAST, "clone alias detach lift_fresh_copy lift_fresh dropout feature_dropout native_dropout "
            "requires_grad"),
    **_rows(replace(_CAST, may_copy=True), "contiguous to _to_copy float half bfloat16 double"),
    "type_as": replace(_CAST, may_copy=True, like=True),
    **_rows(_SAME, "slice narrow chunk split split_with_sizes tensor_split hsplit vsplit "
            "dsplit unsafe_split unsafe_chunk flip roll neg "
            "repeat_interleave tril triu conj conj_physical positive resolve_conj resolve_neg _conj real negative "
            "imag nan_to_num"),
    "view_as_complex": replace(_VIEW, layout="pair"),
    "view_as_real": replace(_VIEW, layout="unpair"),
    **_rows(_RESHAPE, "view _unsafe_view unflatten _reshape_alias"),
    **_rows(replace(_RESHAPE, may_copy=True), "reshape flatten"),
    **_rows(replace(_RESHAPE, may_copy=True, like=True), "view_as reshape_as"),
    **_rows(replace(_VIEW, layout="swap last"), "t mT matrix_H adjoint mH"),
    "numpy_T": replace(_VIEW, layout="reverse"),
    **_rows(replace(_VIEW, layout="swap"), "transpose swapaxes swapdims"),
    "permute": replace(_VIEW, layout="permute"),
    **_rows(replace(_VIEW, layout="move"), "movedim moveaxis"),
    "unsqueeze": replace(_VIEW, layout="insert"),
    "squeeze": replace(_VIEW, layout="squeeze"),
    **_rows(replace(_VIEW, layout="drop"), "select unbind"),
    "_add_batch_dim": replace(_VIEW, layout="hide"),
    "_remove_batch_dim": _VIEW,
    "getitem": replace(_VIEW, layout="pick"),
    **_rows(replace(_VIEW, layout="repeat"), "expand repeat broadcast_to tile"),
    "broadcast_in_dim": replace(_VIEW, layout="place"),
    "expand_as": replace(_VIEW, layout="repeat", like=True),
    **_rows(_VIEW, "as_strided masked_select diagonal take_along_dim "
            "sort topk kthvalue median unfold im2col col2im fold pixel_shuffle pixel_unshuffle channel_shuffle "
            "grid_sampler grid_sampler_2d grid_sampler_3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices "
            "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
            "_adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d reflection_pad1d "
            "reflection_pad2d replication_pad1d replication_pad2d replication_pad3d rot90"),
    **_rows(Op("view", diagonal=True), "diag diag_embed"),
    "pad": replace(_VIEW, fill=3),
    **_rows(replace(_VIEW, fill=2), "constant_pad_nd masked_fill"),
    "index_fill": replace(_VIEW, fill=3),
    "zero": Op("view", zeros=True),
    **_rows(Op("view", layout="same", resizes=True),
            "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
            "upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
            "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    **_rows(Op("transform"),
            "fft_fft fft_rfft fft_fft2 fft_rfft2 fft_fftn fft_rfftn fft_hfft stft _fft_r2c _fft_c2r _fft_c2c"),
    **_rows(Op("transform", inverse=True),
            "fft_ifft fft_irfft fft_ifft2 fft_irfft2 fft_ifftn fft_irfftn fft_ihfft istft"),
    **_rows(Op("view"), "fft_fftshift fft_ifftshift"),
    # functions of one operand
    **_rows(replace(_POWER, positive=True, zero="flat"), "relu abs absolute"),
    **_rows(replace(_POWER, zero="odd"), "leaky_relu rrelu rrelu_with_noise"),
    **_rows(Op("power", consumes="elementwise", zero="odd"), "prelu _prelu_kernel"),
    "square": replace(_POWER, degree=2.0, positive=True, zero="flat"),
    "sqrt": replace(_POWER, degree=0.5, positive=True, zero="singular"),
    "rsqrt": replace(_POWER, degree=-0.5, positive=True, zero="singular"),
    "reciprocal": replace(_POWER, degree=-1.0, zero="singular"),
    **_rows(replace(_POWER, degree=0.0, zero="flat"), "sign sgn angle"),
    "pow": replace(_POWER, consumes="elementwise"),
    **_rows(replace(_BEND, zero="odd"),
            "tanh sin silu gelu elu selu celu mish hardswish erf atan arctan asinh expm1 log1p tan sinh asin atanh "
            "erfinv frac hardtanh"),
    **_rows(replace(_BEND, zero="flat"), "hardshrink softshrink round floor ceil trunc"),
    **_rows(replace(_BEND, positive=True), "exp exp2 softplus sigmoid special_expit hardsigmoid cosh erfc"),
    "relu6": replace(_BEND, positive=True, zero="flat"),
    "acosh": replace(_BEND, positive=True, zero="singular"),
    **_rows(replace(_BEND, zero="singular"), "log log2 log10 logit"),
    **_rows(Op("clamp", layout="same"), "clamp clamp_min clamp_max clip"),
    **_rows(_BEND, "cos sinc acos log_sigmoid log_sigmoid_forward threshold log_softmax _log_softmax logcumsumexp"),
    **_rows(Op("bend"), "glu logsumexp prod cumprod linalg_det linalg_inv linalg_inv_ex linalg_solve matrix_exp "
            "linalg_matrix_exp polar"),
    **_rows(Op("softmax", layout="same", positive=True), "softmax _softmax _safe_softmax special_softmax"),
    # operands of one scale
    "add": replace(_JOIN, adds=True, combines=True),
    **_rows(replace(_JOIN, adds=True, combines=True, mixes="minus"), "sub subtract"),
    "rsub": replace(_JOIN, adds=True, combines=True, mixes="reversed"),
    "lerp": replace(_JOIN, adds=True, mixes="between"),
    "addcmul": replace(_JOIN, adds=True, factors=(1, 2), summand=0, mixes="product"),
    "addcdiv": replace(_JOIN, adds=True, factors=(1, 2), summand=0, mixes="quotient"),
    **_rows(replace(_JOIN, combines=True, listed=True, layout="same"), "cat concat concatenate"),
    **_rows(replace(_JOIN, listed=True), "hstack vstack dstack column_stack row_stack"),
    "stack": replace(_JOIN, combines=True, listed=True, layout="insert"),
    "where": replace(_JOIN, combines=True),
    **_rows(replace(_JOIN, combines=True, bounds=True), "maximum minimum"),
    "complex": replace(_JOIN, combines=True),
    **_rows(_JOIN, "fmax fmin fmod remainder"),
    **_rows(Op("write", consumes="elementwise", summand=1), "copy slice_scatter as_strided_scatter select_scatter "
            "diagonal_scatter"),
    **_rows(Op("write", consumes="elementwise", summand=2), "index_put _index_put_impl _unsafe_index_put "
            "masked_scatter"),
    **_rows(Op("write", summand=3, accumulates=True), "index_add scatter_add"),
    **_rows(Op("write", summand=3), "scatter index_copy scatter_reduce index_reduce"),
    # products
    **_rows(Op("product", consumes="scaled", factors=(0, 1), combines=True), "mul multiply"),
    **_rows(Op("quotient", consumes="scaled", combines=True), "div divide true_divide"),
    "linear": Op("contract", consumes="linear", factors=(0, 1), weight=1, bias=2),
    "addmm": Op("contract", consumes="addmm", factors=(1, 2), weight=2, bias=0, summand=0),
    **_rows(Op("contract", consumes="addmm", factors=(1, 2), summand=0), "baddbmm addmv"),
    "addbmm": Op("contract", factors=(1, 2), summand=0),
    **_rows(_PRODUCT, "mm bmm matmul mv dot vdot _grouped_mm grouped_mm grouped_mm_fallback"),
    "outer": Op("product", factors=(0, 1)),
    "inner": Op("contract", consumes="inner", factors=(0, 1)),
    "tensordot": Op("contract", consumes="tensordot", factors=(0, 1)),
    "einsum": Op("contract", consumes="einsum", factors=(1,), listed=True),
    **_rows(_CONV, "conv1d conv2d conv3d convolution _convolution"),
    **_rows(replace(_CONV, transposed=True), "conv_transpose1d conv_transpose2d conv_transpose3d"),
    "bilinear": Op("contract", consumes="bilinear", factors=(0, 1), weight=2, bias=3),
    **_rows(Op("attention", consumes="elementwise", factors=(0, 1)), "scaled_dot_product_attention"),
    **_rows(Op("recurrent", consumes="recurrent", factors=(0, 2, 3)),
            "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    "embedding": Op("lookup", consumes="embedding", factors=(0, 1), weight=0),
    **_rows(Op("lookup", consumes="embedding", factors=(0, 1), weight=0), "embedding_bag _embedding_bag"),
    **_rows(Op("lookup", consumes="index", factors=(0, 1)), "index _unsafe_index"),
    "index_select": Op("lookup", consumes="index", factors=(0, 2)),
    "gather": Op("lookup", factors=(0, 2)),
    # reductions
    **_rows(Op("sum"), "sum nansum trace"),
    **_rows(Op("scan"), "cumsum"),
    **_rows(_VIEW, "cummax cummin"),
    **_rows(Op("mean"), "mean nanmean"),
    **_rows(Op("norm", positive=True, zero="flat"), "norm linalg_vector_norm linalg_norm linalg_matrix_norm"),
    "std": Op("spread", positive=True, zero="flat"),
    "var": Op("spread", degree=2.0, positive=True, zero="flat"),
    **_rows(Op("extreme"), "amax amin max min aminmax"),
    # norms
    **_rows(_NORM, "layer_norm group_norm native_layer_norm"),
    **_rows(replace(_NORM, bias=None), "rms_norm _fused_rms_norm"),
    "native_group_norm": replace(_NORM, weight=1, bias=2),
    **_rows(replace(_NORM, weight=1, bias=2, per_channel=True),
            "batch_norm instance_norm native_batch_norm _native_batch_norm_legit_functional _native_batch_norm_legit "
            "_batch_norm_with_update cudnn_batch_norm"),
    **_rows(Op("normalise"), "cosine_similarity"),
    **_rows(Op("weight norm"), "_weight_norm _weight_norm_interface"),
    # no scale
    **_rows(Op("index", consumes="elementwise"), "eq ne gt lt ge le greater less greater_equal less_equal not_equal"),
    **_rows(Op("index", scale_free=True), "argmax argmin argsort isnan isinf isfinite"),
    **_rows(Op("index"),
            "logical_not logical_and logical_or logical_xor bitwise_and "
            "bitwise_or bitwise_not bitwise_xor nonzero nonzero_numpy any all searchsorted bucketize "
            "floor_divide is_nonzero unique _unique2 unique_consecutive unique_dim equal allclose isclose isin "
            "bernoulli multinomial bincount histc"),
    "one_hot": Op("index", one_hot=True),
    **_rows(Op("index", reads=True), "item _local_scalar_dense"),
    **_rows(Op("bend"),
            "cross_entropy_loss nll_loss nll_loss_nd nll_loss2d nll_loss_forward binary_cross_entropy l1_loss kl_div "
            "binary_cross_entropy_with_logits mse_loss huber_loss smooth_l1_loss ctc_loss _ctc_loss"),
}  # fmt: skip
