# %% [markdown] lang="en"
# # Structured pruning: from magnitude to Optimal Brain Surgeon
#
# How to remove neurons and heads so that matrices become smaller, how to choose which ones, and why those that stay
# must be corrected.
#
# A trained network has more weights than its task needs. *Pruning* removes some of them. It comes in two kinds.
# *Unstructured* pruning sets single weights to zero: the matrix keeps its shape, and an ordinary processor multiplies
# zeros as slowly as other numbers. *Structured* pruning removes whole *units*, so that the matrices really become
# smaller. In an encoder the units are the *neurons* of a feed-forward network (a row of its first matrix and a column
# of its second) and the *heads* of an attention.
#
# The question is which units to remove. This chapter compares three answers on the same layer, each a little deeper
# than the one before. Its model is MiniLM, fine-tuned on film reviews as in [chapter 3](03_finetuning.py): one epoch
# on 1,600 sentences. The first of the chapters 5 to 8 that runs trains it, and the others find it in the store.

# %% [markdown] lang="zh"
# # 结构化剪枝：从幅值到最优脑外科
#
# 怎样去掉神经元和注意力头，让矩阵真正变小；怎样决定去掉哪些；以及为什么必须修正留下的权重。
#
# 训练好的网络，权重总比任务需要的多。*剪枝*就是去掉其中一部分。剪枝分两种。*非结构化*剪枝把单个权重设为零：矩阵形状不
# 变，普通处理器乘以零并不比乘以别的数快。*结构化*剪枝则去掉整个*单元*，矩阵真的变小。在编码器里，单元是前馈网络的*神
# 经元*（第一个矩阵的一行和第二个矩阵的一列）以及注意力的*头*。
#
# 问题是去掉哪些。本章在同一层上比较三种答案，一种比一种深入。所用的模型是 MiniLM，像[第 3 章](03_finetuning.py)那样在
# 影评上微调：1,600 个句子，一轮。第 5 到第 8 章中最先运行的那一章训练它，其余各章从存储里直接取用。

# %%
from models.classifier_folder import open_classifier
from models.finetuning.predict import predict
from tools.course.film_classifier import film_classifier
from tools.course.output import figure, scores, sized

film = film_classifier()
model, task, tokenizer = open_classifier(film.folder)
test = tokenizer.encode(film.test.rows)


def accuracy(classifier):
    """Return the share of the test reviews that a classifier answers right."""
    return float((predict(classifier, test, tokenizer).argmax(1) == film.test.targets(task)).mean())


of_full = accuracy(model)
print(model.architecture.summary(), f"accuracy of the full model: {of_full:.1%}")

# %% [markdown] lang="en"
# ## One layer as a least-squares problem
#
# Take the second matrix $W$ of the feed-forward network in layer 2 (counted from 0): 384 outputs, 1,536 inputs, one
# input for each neuron. Let $X$ be the activations of all neurons on many texts. The layer computes $WX$. If we
# replace $W$ by a $\hat{W}$ in which some columns are zero, the layer's output changes by
#
# $$E = \lVert WX - \hat{W}X \rVert^2 = \mathrm{tr}\left((W - \hat{W}) H (W - \hat{W})^\top\right)$$
#
# So everything that we need to know about the texts is the *Gram matrix* $H = X X^\top$. It has 1,537 rows: a
# constant 1 is added to the inputs, so that the bias is one more column of $W$. `collect_grams` sums it over 512
# training reviews, and over the validation reviews, on which we shall measure.

# %% [markdown] lang="zh"
# ## 把一层看成最小二乘问题
#
# 取第 2 层（从 0 数起）前馈网络的第二个矩阵 $W$：384 个输出，1,536 个输入，每个神经元一个输入。设 $X$ 是所有神经元在
# 大量文本上的激活值，这一层计算的就是 $WX$。如果把 $W$ 换成某些列为零的 $\hat{W}$，这一层的输出就改变
#
# $$E = \lVert WX - \hat{W}X \rVert^2 = \mathrm{tr}\left((W - \hat{W}) H (W - \hat{W})^\top\right)$$
#
# 也就是说，关于文本，我们只需要知道*格拉姆矩阵* $H = X X^\top$。它有 1,537 行，因为在输入里加了一个常数 1，偏置就成了
# $W$ 的又一列。`collect_grams` 在 512 条训练影评上累加它，另外也在验证影评上算一份，留作测量用。

# %%
import torch

from compress.pruning.gram import collect_grams, output_bias, output_matrix
from compress.quantization.calibration import TextBatches
from models.classifier import TensorBatch

fitted, others = film.train.rows[: sized(512, small=16)], film.validation.rows
batches = [TensorBatch(batch) for batch in TextBatches(fitted, tokenizer)]
grams = collect_grams(model, batches)
held_out = collect_grams(model, [TensorBatch(batch) for batch in TextBatches(others, tokenizer)])
NAME = "2.ffn"
layer = output_matrix(model, NAME)
full = torch.cat([layer.weight.detach(), output_bias(layer)[:, None]], dim=1).double()
print("W with its bias:", tuple(full.shape), "H:", tuple(grams[NAME].shape))

# %% [markdown] lang="en"
# ## What Optimal Brain Surgeon adds
#
# *Magnitude* pruning removes the neurons whose columns in $W$ are smallest. It ignores $X$: a small column that is
# multiplied by large activations counts as unimportant. *Fisher* pruning asks the loss: put a factor (a gate) of 1 on
# each neuron, and take the mean squared gradient with respect to it. If the gradient is always near zero, the answers
# do not depend on this neuron.
#
# *Optimal Brain Surgeon* (Hassibi and Stork 1992) asks another question: how large is the error after removing a
# neuron **if the other weights may change to make up for it**? Two neurons that always fire together can replace each
# other, so one of them costs nothing, however large its weights are. For column $w_j$ the smallest possible error has
# a closed form, and so has the corrected matrix:
#
# $$\Delta E_j = \frac{\lVert w_j \rVert^2}{(H^{-1})_{jj}}$$
#
# $$W \leftarrow W - \frac{w_j \, (H^{-1})_{j,:}}{(H^{-1})_{jj}}$$
#
# We do not have to believe it. The code below computes the formula for one neuron, and then solves the least-squares
# problem without that neuron directly. Both must agree.

# %% [markdown] lang="zh"
# ## 最优脑外科的不同之处
#
# *幅值*剪枝去掉 $W$ 中列最小的神经元。它不看 $X$：列虽小，但若总是乘以很大的激活值，也会被当成不重要。*费舍尔*剪枝则
# 去问损失：给每个神经元乘一个等于 1 的系数（开关），取损失对它的梯度平方的平均。如果梯度总是接近零，回答就不依赖这个
# 神经元。
#
# *最优脑外科*（Optimal Brain Surgeon，Hassibi 和 Stork，1992）问的是另一个问题：去掉一个神经元之后，**如果其余权重可
# 以随之改变来补偿**，误差还有多大？两个总是同时激活的神经元可以互相代替，所以去掉其中一个毫无代价，不管它的权重多大。
# 对列 $w_j$，能达到的最小误差可以直接写成公式，修正后的矩阵也可以：
#
# $$\Delta E_j = \frac{\lVert w_j \rVert^2}{(H^{-1})_{jj}}$$
#
# $$W \leftarrow W - \frac{w_j \, (H^{-1})_{j,:}}{(H^{-1})_{jj}}$$
#
# 不必轻信公式。下面的代码先用公式算一个神经元，再直接求解去掉它之后的最小二乘问题，两者必须一致。

# %%
from compress.pruning.obs import damped

H = damped(grams[NAME])
inverse, neuron = torch.linalg.inv(H), 7
predicted = float(full[:, neuron] @ full[:, neuron] / inverse[neuron, neuron])
rest = [i for i in range(len(H)) if i != neuron]
lost = full.clone()
lost[:, rest] -= torch.linalg.solve(H[rest][:, rest], H[rest] @ full.T).T
measured = float((lost @ H * lost).sum())
print(f"error after removing neuron {neuron}: {predicted:.6f} by the formula, {measured:.6f} by least squares")
assert abs(predicted - measured) < 1e-6 * measured

# %% [markdown] lang="en"
# ## Three orders, with and without correction
#
# Now the comparison. Each method gives an order of removal. For each order we keep the last 96, 192, … neurons and
# measure which share of the layer's output is lost on reviews that were not used for fitting: once with the remaining
# weights as they are, once after they were corrected by least squares (`refit`). `removal_order` removes neurons one
# after the other, and updates $H^{-1}$ each time, because after a neuron has gone, its twin is no longer free.

# %% [markdown] lang="zh"
# ## 三种顺序，修正与不修正
#
# 现在来比较。每种方法给出一个去除的顺序。对每种顺序，我们留下最后的 96、192……个神经元，在没有用于拟合的影评上，测量
# 这一层的输出损失了多大比例：一次保持其余权重不变，一次用最小二乘修正它们（`refit`）。`removal_order` 逐个去掉神经
# 元，每次都更新 $H^{-1}$，因为一个神经元去掉之后，它的“双胞胎”就不再是可有可无的了。

# %%
from compress.pruning.fisher import fisher, fisher_order
from compress.pruning.obs import prune_to_each_width, removal_order

information = fisher(model, batches[: sized(8, small=2)])


def orders(name):
    """Return the neurons of a sublayer in the order in which each method removes them."""
    weight = output_matrix(model, name).weight.detach()
    magnitude = weight.pow(2).sum(0)
    return {
        "magnitude": fisher_order(magnitude),
        "Fisher": fisher_order(information[name]),
        "OBS": removal_order(weight, grams[name], size=1),
    }


def error(pruned):
    """Return the share of the sublayer's output that is lost on reviews that were not used for fitting."""
    lost = full.clone()
    lost[:, [*pruned.kept.tolist(), -1]] -= torch.cat([pruned.weight, pruned.bias[:, None]], dim=1).double()
    return float((lost @ held_out[NAME] * lost).sum() / (full @ held_out[NAME] * full).sum())


widths = sized([96, 192, 384, 768, 1152, 1536], small=[96, 192, 384, 1536])
by_order = orders(NAME)
curves = {}
for method, order in by_order.items():
    for refit in (False, True):
        pruned = prune_to_each_width(full, grams[NAME], order, widths, refit=refit)
        curves[method, refit] = [error(pruned[width]) for width in widths]
        shown = " ".join(f"{value:6.1%}" for value in curves[method, refit])
        print(f"{method:9} {'corrected' if refit else 'as it is '} {shown}")


# %%
def draw(axes):
    """Error against width: dashed as the weights are, solid after the correction."""
    for method, color in (("magnitude", "#3d7dd6"), ("Fisher", "#e08a1e"), ("OBS", "#d6453d")):
        axes.plot(widths, curves[method, False], "--", color=color)
        axes.plot(widths, curves[method, True], "o-", color=color, label=method)
    axes.set(xlabel="neurons that stay, of 1,536", ylabel="share of the output that is lost")


figure("Share of a layer's output that is lost: dashed, weights removed only; solid, the others corrected.", draw)

# %% [markdown] lang="en"
# Compare the dashed lines with the solid ones. With a quarter of the neurons, magnitude loses {{error_magnitude:.1%}}
# of the output as it is, OBS without its correction {{error_obs_as_it_is:.1%}}, and OBS with it {{error_obs:.1%}}.
# Order and correction belong together: OBS chose neurons *because* the others could replace them, and that helps only
# if they may.
#
# ## The whole model
#
# Errors of layers are not what we are after: answers are. So we keep 192 of 1,536 neurons in every layer, put the
# pruned layers into the model (`cut`), and count right answers on the test reviews. The last line does one thing
# more. So far each layer was corrected for the inputs that it has in the *full* model, but in the pruned model its
# inputs come from pruned layers. `refit` goes through the layers from the first to the last, and solves each again
# for the inputs that it really gets, so that errors do not add up.

# %% [markdown] lang="zh"
# 比较虚线和实线。留下四分之一的神经元时，不作修正的幅值剪枝损失 {{error_magnitude:.1%}} 的输出，不带修正的 OBS 损失
# {{error_obs_as_it_is:.1%}}，带修正的 OBS 损失 {{error_obs:.1%}}。顺序和修正是一体的：OBS 选中那些神经元，正是*因
# 为*其余的能代替它们，所以只有让其余的去代替，才有好处。
#
# ## 整个模型
#
# 我们真正关心的不是某一层的误差，而是回答。所以在每一层都只留 1,536 个神经元中的 192 个，把剪好的层装回模型
# （`cut`），在测试影评上数答对多少。最后一行还多做一件事。到目前为止，每一层的修正都假定输入来自*完整*模型，可在剪过
# 的模型里，输入来自剪过的层。`refit` 从第一层走到最后一层，按每层真正得到的输入重新求解，误差就不会层层累积。

# %%
from compress.pruning.refit import refit as refit_layers
from compress.pruning.surgery import cut
from models.sublayer import SublayerId

KEEP = 192
layers = len(model.architecture.layers)
sublayers = [name for name in SublayerId.keys(layers) if name.endswith("ffn")][sized(0, small=2) : sized(6, small=3)]
orders_of = {name: by_order if name == NAME else orders(name) for name in sublayers}
reached = {}
for method in by_order:
    for refit in (False, True):
        pruned = {}
        for name in sublayers:
            matrix = output_matrix(model, name)
            whole = torch.cat([matrix.weight.detach(), output_bias(matrix)[:, None]], dim=1)
            pruned[name] = prune_to_each_width(whole, grams[name], orders_of[name][method], [KEEP], refit)[KEEP]
        smaller = cut(model, pruned)
        reached[method, refit] = accuracy(smaller)
        print(f"{method:9} {'corrected' if refit else 'as it is '} {reached[method, refit]:.1%}")
refit_layers(smaller, model, batches)
reached["layer after layer"] = accuracy(smaller)
print(f"OBS, then every layer fitted again to the full model: {reached['layer after layer']:.1%}")

# %%
before, after = (sum(p.numel() for p in one.encoder.layers.parameters()) for one in (model, smaller))
scores(
    f"{reached['layer after layer']:.1%} with {after / before:.0%} of the layers' weights",
    full=of_full,
    magnitude=reached["magnitude", False],
    fisher=reached["Fisher", False],
    obs=reached["OBS", False],
    magnitude_corrected=reached["magnitude", True],
    fisher_corrected=reached["Fisher", True],
    obs_corrected=reached["OBS", True],
    fitted=reached["layer after layer"],
    share=after / before,
    error_magnitude=curves["magnitude", False][2],
    error_obs=curves["OBS", True][2],
    error_obs_as_it_is=curves["OBS", False][2],
)

# %% [markdown] lang="en"
# With {{share:.0%}} of the layers' weights, the answers are right for {{fitted:.1%}} of the reviews; the full model
# reaches {{full:.1%}}, and magnitude pruning without correction {{magnitude:.1%}} (a coin reaches about 50 %). No
# label was used, and no step of training was taken: only texts, and linear algebra.
# `prunella compress --mode instant` is exactly this, with a search for the best width of each layer
# ([compression](../compression.md)). The next chapter trains the pruned model further.
#
# These are results of one model and one seed; differences of two or three points between the rows above
# may be chance.
#
# ## Exercises
#
# 1. Two neurons always have the same activation, and both have large weights. Which of them does magnitude pruning
#    remove first, and what does OBS lose when it removes one of them?
# 2. For which Gram matrix are OBS and magnitude pruning the same?
# 3. Without correction, removing neurons is the same as multiplying them by 0. Check with `Gates` that a model from
#    which neurons were `cut` answers as the full model with these gates at 0.
#
# The answers are tests: [`tests/docs/learn/test_05_pruning.py`](../../tests/docs/learn/test_05_pruning.py). Next:
# [distillation](06_distillation.py).

# %% [markdown] lang="zh"
# 只用各层 {{share:.0%}} 的权重，影评答对 {{fitted:.1%}}；完整模型是 {{full:.1%}}，不带修正的幅值剪枝是
# {{magnitude:.1%}}（抛硬币大约 50 %）。这里没有用任何标签，也没有训练一步：只有文本和线性代
# 数。`prunella compress --mode instant` 做的正是这件事，再加上为每一层搜索最合适的宽度（[压缩](../compression.md)）。
# 下一章继续训练剪过的模型。
#
# 以上只是一个模型、一个随机种子的结果；各行之间相差两三个百分点，可能只是偶然。
#
# ## 练习
#
# 1. 两个神经元的激活值总是相同，权重都很大。幅值剪枝先去掉哪一个？OBS 去掉其中一个会损失多少？
# 2. 格拉姆矩阵是什么样时，OBS 与幅值剪枝完全相同？
# 3. 不做修正时，去掉神经元等于把它们乘以 0。用 `Gates` 验证：经过 `cut` 的模型，与把这些开关设为 0 的完整模型，回答相
#    同。
#
# 答案就是测试：[`tests/docs/learn/test_05_pruning.py`](../../tests/docs/learn/test_05_pruning.py)。下一
# 章：[蒸馏](06_distillation.py)。
