# %% [markdown] lang="en"
# # Int8: by hand on one matrix, then the real calibrator
#
# What a scale and a zero point are, how a product of integers approximates a product of real numbers, and how
# calibration chooses the ranges.
#
# Weights and activations are usually stored in *fp32*: 32 bits each. *Quantization* to *int8* stores them in 8 bits,
# as whole numbers. The model becomes a quarter as large, and processors with the right instructions (VNNI) multiply
# four times as many of these numbers in the same time. The price is rounding: there are only 256 different values.
#
# We first do it by hand, with numpy, on one matrix of our film classifier: the second matrix of the feed-forward
# network in layer 3 (counted from 0), with 1,536 inputs and 384 outputs. `observe` runs 128 reviews through the model
# and hands over the real inputs of this matrix.

# %% [markdown] lang="zh"
# # int8：先在一个矩阵上手算，再用真正的校准器
#
# 缩放系数和零点是什么，整数乘积怎样近似实数乘积，以及校准怎样选择范围。
#
# 权重和激活值通常以 *fp32* 存储，每个 32 位。*量化*到 *int8*，就是用 8 位的整数来存。模型缩小到四分之一，而带有相应指
# 令（VNNI）的处理器在同样时间里能乘四倍多的这种数。代价是舍入：总共只有 256 个不同的值。
#
# 我们先用 numpy 在影评分类器的一个矩阵上手算：第 3 层（从 0 数起）前馈网络的第二个矩阵，1,536 个输入，384 个输
# 出。`observe` 让 128 条影评流过模型，交出这个矩阵真实的输入。

# %%
import numpy as np

from compress.quantization.calibration import TextBatches, calibrate, matrix_inputs, observe
from models.classifier_folder import open_classifier
from tools.course.film_classifier import film_classifier
from tools.course.output import figure, fresh_folder, scores, sized

film = film_classifier()
model, task, tokenizer = open_classifier(film.folder)
batches = TextBatches(film.train.rows[: sized(128, small=16)], tokenizer)
NAME = "encoder.layers.3.ffn.fall"
matrix, seen = matrix_inputs(model)[NAME], []
observe(model, {NAME: matrix}, batches, lambda _name, values, _weights: seen.append(values.copy()))
x, weight = np.concatenate(seen), matrix.weight
print("x:", x.shape, f"from {x.min():.2f} to {x.max():.2f}")
print("W:", weight.shape, f"from {weight.min():.2f} to {weight.max():.2f}")

# %% [markdown] lang="en"
# ## By hand
#
# The real range from the smallest to the largest $x$ is divided into 255 steps. The *scale* $s$ is the size of a
# step, and the *zero point* $z$ is the whole number that stands for 0. Zero must be exact, because padding and
# removed units are zeros:
#
# $$s_x = \frac{\max x - \min x}{255}, \qquad z = \mathrm{round}\left(-\frac{\min x}{s_x}\right)$$
#
# $$q = \mathrm{round}\left(\frac{x}{s_x}\right) + z$$
#
# For weights it is simpler: they lie around 0 evenly, so $z = 0$, and each column $j$ gets its own scale,
# $s_j = \max |w_j| / 127$. Then the product needs whole numbers only, and one multiplication by $s_x s_j$ at the end
# of each column:
#
# $$\sum_i x_i w_{ij} \approx s_x s_j \sum_i (q_i - z)\, v_{ij}$$
#
# Sums of 1,536 products of two 8-bit numbers do not fit into 8 bits; they are collected in 32.

# %% [markdown] lang="zh"
# ## 手算
#
# 把 $x$ 从最小到最大的真实范围分成 255 步。*缩放系数* $s$ 是一步的大小，*零点* $z$ 是代表 0 的那个整数。0 必须精确，
# 因为填充和被去掉的单元都是 0：
#
# $$s_x = \frac{\max x - \min x}{255}, \qquad z = \mathrm{round}\left(-\frac{\min x}{s_x}\right)$$
#
# $$q = \mathrm{round}\left(\frac{x}{s_x}\right) + z$$
#
# 权重更简单：它们在 0 两侧对称分布，所以 $z = 0$；每一列 $j$ 有自己的缩放系数，$s_j = \max |w_j| / 127$。于是乘积只需
# 要整数，每列最后再乘一次 $s_x s_j$：
#
# $$\sum_i x_i w_{ij} \approx s_x s_j \sum_i (q_i - z)\, v_{ij}$$
#
# 1,536 个 8 位数乘积之和放不进 8 位，要用 32 位来累加。

# %%
scale_x = (x.max() - x.min()) / 255
zero = np.round(-x.min() / scale_x)
x8 = np.clip(np.round(x / scale_x) + zero, 0, 255).astype(np.uint8)
scale_w = np.abs(weight).max(axis=0) / 127  # one scale for each column
w8 = np.round(weight / scale_w).astype(np.int8)
integers = (x8.astype(np.int32) - int(zero)) @ w8.astype(np.int32)
product = integers * (scale_x * scale_w)
exact = x @ weight


def error(approximate):
    """Return the relative error of a product: the norm of the difference by the norm of the exact one."""
    return float(np.linalg.norm(approximate - exact) / np.linalg.norm(exact))


print(f"scale {scale_x:.5f}, zero point {zero:.0f}")
print("first row of x: ", *(f"{value:7.3f}" for value in x[0, :6]))
print("as integers:    ", *(f"{value:7d}" for value in x8[0, :6]))
print("read back:      ", *(f"{value:7.3f}" for value in (x8[0, :6] - zero) * scale_x))
print(f"error of the int8 product: {error(product):.2%}")

# %% [markdown] lang="en"
# The result differs from the exact product by {{by_hand:.2%}} of its size. Is our arithmetic the product's?
# `Activation` and `quantized_weight` are what `prunella quantize` uses when it writes a graph; their scale, zero
# point and weights must be ours.
#
# Then we ask how much a bit is worth. Only the weights are rounded here, to 3 … 8 bits, once with a single scale for
# the whole matrix, once with one for each column. A single large weight stretches the steps of everything that shares
# its scale.

# %% [markdown] lang="zh"
# 结果与精确乘积相差其大小的 {{by_hand:.2%}}。我们算的和产品算的一样吗？`Activation` 和 `quantized_weight` 就是
# `prunella quantize` 写计算图时用的函数；它们给出的缩放系数、零点和权重必须与我们的相同。
#
# 接下来看每一位值多少。这里只舍入权重，取 3 到 8 位；一次整个矩阵共用一个缩放系数，一次每列各用一个。只要有一个权重特
# 别大，所有与它共用缩放系数的数，步长都会被拉大。

# %%
from export.graph_precision import Activation, quantized_weight

activation = Activation.of_range(float(x.min()), float(x.max()))
values, scale = quantized_weight(weight, bits=8)
assert abs(activation.scale - scale_x) < 1e-6 * scale_x
assert activation.zero_point == int(zero)
assert np.abs(values.astype(int) - w8).max() <= 1
assert np.allclose(scale, scale_w, rtol=1e-6)
print("the product's scale, zero point and weights are those that we computed")


def error_of_weights(bits, per_column):
    """Return the error of the product if only the weights are rounded to `bits` bits."""
    whole = weight if per_column else weight.reshape(-1, 1)
    rounded, steps = quantized_weight(whole, bits)
    return error(x @ (rounded * steps).reshape(weight.shape))


bits = [3, 4, 5, 6, 7, 8]
curves = {
    "one scale for the matrix": [error_of_weights(b, per_column=False) for b in bits],
    "one scale for each column": [error_of_weights(b, per_column=True) for b in bits],
}
for name, values in curves.items():
    print(f"{name:26}", *(f"{b} bits {value:.2%}" for b, value in zip(bits, values, strict=True)))


# %%
def draw(axes):
    """Error against the number of bits."""
    for (name, values), color in zip(curves.items(), ("#3d7dd6", "#d6453d"), strict=True):
        axes.plot(bits, [100 * value for value in values], "o-", color=color, label=name)
    axes.set(yscale="log", xlabel="bits of a weight", ylabel="error of the product in % (log)")


figure("The error of a product when its weights are rounded: each bit halves it.", draw)

# %% [markdown] lang="en"
# Each bit more about halves the error, and a scale for each column makes it smaller at no cost in time. With 4 bits
# the error of the weights alone is {{four_bits:.1%}}, or {{four_bits_matrix:.1%}} with a single scale.
#
# ## The real calibrator
#
# The inputs are the harder part. Their scale must be fixed before anything is served, so that an answer never depends
# on the other texts in its batch. *Calibration* looks at typical texts and chooses. Three things can be improved on
# "the range of all values":
#
# - **Clipping** (`mse`): one outlier makes every step large. A smaller range clips the outlier, and rounds all others
#   more finely. The calibrator tries 37 shares of both ends on a histogram, and takes the pair with the smallest
#   expected error of the *product* $xW$: an error in column $j$ counts as much as row $j$ of $W$ is large.
# - **Smoothing** (SmoothQuant, Xiao et al. 2022): if a few columns of $x$ are much larger than the others, divide
#   them by a factor and multiply the matching rows of $W$ by it. The product stays the same, but both sides are
#   easier to round.
# - **Bias correction**: rounding errors do not average to zero exactly. Their mean can be measured, and added to the
#   bias.

# %% [markdown] lang="zh"
# 每多一位，误差大约减半；每列一个缩放系数，不多花时间就能让误差更小。用 4 位时，仅权重造成的误差是
# {{four_bits:.1%}}；整个矩阵共用一个系数时是 {{four_bits_matrix:.1%}}。
#
# ## 真正的校准器
#
# 输入更难办。它的缩放系数必须在上线之前就定下来，这样回答才不会受同批其他文本影响。*校准*就是看一些典型文本，然后做选
# 择。比起“所有值的范围”，有三处可以改进：
#
# - **截断**（`mse`）：一个离群值会让每一步都变大。范围小一点，离群值被截断，其余的数却舍入得更细。校准器在直方图上对
#   两端各试 37 个比例，取*乘积* $xW$ 期望误差最小的一对：第 $j$ 列的误差，按 $W$ 第 $j$ 行的大小计权。
# - **平滑**（SmoothQuant，Xiao 等，2022）：如果 $x$ 有几列比别的列大得多，就把它们除以一个系数，再把 $W$ 相应的行乘上
#   这个系数。乘积不变，但两边都更容易舍入。
# - **偏置修正**：舍入误差的平均并不恰好为零。这个平均值可以测出来，加进偏置。


# %%
def int8_error(activation):
    """Return the error of the product as the product's int8 graph computes it."""
    rounded, steps = quantized_weight(activation.smoothed_weight(weight), bits=8)
    products = activation.rounded(activation.smoothed(x)) @ (rounded * steps)
    return error(products if activation.correction is None else products + activation.correction)


found = {
    "range of all values": activation,
    "minmax, corrected": calibrate(model, batches, "minmax", smooth=False)[NAME],
    "mse": calibrate(model, batches, "mse", smooth=False)[NAME],
}
scales = calibrate(model, batches, "mse", smooth=True)
found["mse, smoothed"] = scales[NAME]
for name, one in found.items():
    low, high = one.range
    print(f"{name:20} range {low:7.2f} to {high:6.2f}   error {int8_error(one):.2%}")

# %% [markdown] lang="en"
# The error of this product is {{by_hand:.2%}} by hand, and {{calibrated:.2%}} with what the calibrator chose. Our
# `error` takes all tokens together, so the tokens with large products decide it. The calibrator divides the error of
# each token by the size of its own product, because a token with a small product matters to its text as well. So its
# choice may be a little worse by our measure. And for another matrix another step helps most: that is why it is
# measured for each.
#
# ## The whole model
#
# `calibrate` has chosen the quantization of every matrix. `write_int8` writes the graph, ONNX Runtime runs it, and we
# compare answers, not errors.

# %% [markdown] lang="zh"
# 这个乘积的误差，手算是 {{by_hand:.2%}}，用校准器选出的范围是 {{calibrated:.2%}}。我们的 `error` 把所有词元合在一起
# 算，所以结果主要由乘积大的词元决定。校准器则把每个词元的误差除以它自己乘积的大小，因为乘积小的词元对它所在的文本同样
# 重要。所以按我们的算法，校准器选的范围可能略差一点。换一个矩阵，最有用的可能是另一步，所以每个矩阵都要测量。
#
# ## 整个模型
#
# `calibrate` 已经为每个矩阵选好了量化方式。`write_int8` 写出计算图，ONNX Runtime 来运行；这一次比较的是回答，而不是误
# 差。

# %%
from export.graph_precision import Precision
from export.writer import to_onnx, write_int8
from models.finetuning.predict import predict
from service.model.engine import run_session
from service.model.session import open_session

folder = fresh_folder("07_int8")
to_onnx(model, folder / "fp32.onnx", pair=False)
write_int8(model, folder / "int8.onnx", False, scales, Precision.all_int8(model.architecture))
test, truth = tokenizer.encode(film.test.rows), film.test.targets(task)
session = open_session(folder / "int8.onnx")
int8 = np.concatenate([run_session(session, tokenizer.pad([row])) for row in test])
fp32 = predict(model, test, tokenizer)
size = {name: (folder / f"{name}.onnx").stat().st_size / 1e6 for name in ("fp32", "int8")}
accuracy = {name: float((logits.argmax(1) == truth).mean()) for name, logits in (("fp32", fp32), ("int8", int8))}
same = float((int8.argmax(1) == fp32.argmax(1)).mean())
for name in size:
    print(f"{name}: {size[name]:.1f} MB, accuracy {accuracy[name]:.1%}")
print(f"same answers: {same:.1%}")

# %%
scores(
    f"{accuracy['int8']:.1%} in {size['int8']:.0f} MB; fp32: {accuracy['fp32']:.1%} in {size['fp32']:.0f} MB",
    fp32=accuracy["fp32"],
    int8=accuracy["int8"],
    same=same,
    fp32_mb=size["fp32"],
    int8_mb=size["int8"],
    by_hand=error(product),
    calibrated=int8_error(found["mse, smoothed"]),
    minmax=int8_error(found["minmax, corrected"]),
    mse=int8_error(found["mse"]),
    four_bits=curves["one scale for each column"][1],
    four_bits_matrix=curves["one scale for the matrix"][1],
)

# %% [markdown] lang="en"
# The int8 graph has {{int8_mb:.1f}} MB instead of {{fp32_mb:.1f}}, and gives the same answer as fp32 for {{same:.1%}}
# of the test reviews: {{int8:.1%}} right, {{fp32:.1%}} in fp32. Errors of a percent in each product do not add up to
# a percent of wrong answers, because most texts are far from the border between the labels. Where a model loses more,
# `prunella quantize` leaves the worst sublayers in fp32 until the loss is allowed
# ([quantization](../quantization.md)).
#
# ## Exercises
#
# 1. Show that an activation of 0 is read back as exactly 0, for whatever range, and that a value outside the range is
#    clipped to its end.
# 2. Smoothing changes $x$ and $W$, but not $xW$. Check this, and find factors for a matrix with one large column with
#    which the int8 product is more accurate.
# 3. ONNX Runtime has an operator for the sum of whole numbers, `MatMulInteger`. Check that it gives the same integers
#    as numpy does.
#
# The answers are tests: [`tests/docs/learn/test_07_int8.py`](../../tests/docs/learn/test_07_int8.py). Next:
# [ONNX and serving](08_serving.py).

# %% [markdown] lang="zh"
# int8 的计算图是 {{int8_mb:.1f}} MB，而不是 {{fp32_mb:.1f}} MB；{{same:.1%}} 的测试影评得到与 fp32 相同的回答：答对
# {{int8:.1%}}，fp32 是 {{fp32:.1%}}。每个乘积有百分之一的误差，并不会变成百分之一的错误回答，因为大多数文本离标签的分
# 界线很远。如果某个模型损失更大，`prunella quantize` 会把最差的子层留在 fp32，直到损失在允许范围之内
# （[量化](../quantization.md)）。
#
# ## 练习
#
# 1. 证明：不管范围是什么，激活值 0 还原后恰好是 0；范围之外的值会被截到端点。
# 2. 平滑改变了 $x$ 和 $W$，却不改变 $xW$。验证这一点，并为有一列特别大的输入找出系数，使 int8 乘积更准确。
# 3. ONNX Runtime 有一个做整数求和的算子 `MatMulInteger`。验证它给出的整数与 numpy 相同。
#
# 答案就是测试：[`tests/docs/learn/test_07_int8.py`](../../tests/docs/learn/test_07_int8.py)。下一
# 章：[ONNX 与服务](08_serving.py)。
