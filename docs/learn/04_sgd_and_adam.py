# %% [markdown] lang="en"
# # SGD against Adam
#
# Why language models are trained with Adam and not with plain gradient descent, and how to compare two methods
# fairly: each at several learning rates.
#
# Chapter 2 wrote out Adam. But why so complicated? *Stochastic gradient descent* (SGD) is the obvious method: step
# against the gradient $g_t$ of a batch, with the *learning rate* $\eta$. With *momentum* $\mu$ it remembers where it
# was going, which evens out the noise:
#
# $$\theta_t = \theta_{t-1} - \eta\, u_t, \qquad u_t = \mu\, u_{t-1} + g_t$$
#
# A fair comparison gives each method its own best learning rate. A rate that suits one is useless for the other, and
# many a paper has "beaten" a method by giving it a bad rate. So we train the tiny masked language model of chapter 2
# from the same start, on the same batches, with every method at several rates.

# %% [markdown] lang="zh"
# # SGD 与 Adam
#
# 语言模型为什么用 Adam 而不用普通的梯度下降来训练，以及怎样公平地比较两种方法：每种都试几个学习率。
#
# 第 2 章把 Adam 写了出来。可是为什么要这么复杂？*随机梯度下降*（SGD）才是最自然的办法：沿着一批数据的梯度 $g_t$ 的反
# 方向走一步，步长由*学习率* $\eta$ 决定。加上*动量* $\mu$，它会记住刚才的方向，把噪声抹平一些：
#
# $$\theta_t = \theta_{t-1} - \eta\, u_t, \qquad u_t = \mu\, u_{t-1} + g_t$$
#
# 公平的比较要让每种方法都用自己最好的学习率。适合一种方法的学习率，放到另一种上可能毫无用处；不少论文“打败”了某个方
# 法，只是因为给了它一个差的学习率。所以下面用第 2 章那个小小的遮盖语言模型，从同样的起点、按同样的批次，让每种方法各
# 试几个学习率。

# %%
import math

import torch

from models.data.texts import read_texts
from models.pretraining.corpus import Packing, pack_corpus
from models.pretraining.masked_lm import new_masked_model
from models.pretraining.masking import MaskingConfig
from models.pretraining.objective import MaskedObjective, measure
from models.pretraining.pretrain import resolve_size
from models.pretraining.wordpiece import Vocabulary, train_wordpiece
from models.train.optimizer import clip, make_optimizer, warm_then_linear
from models.train.training_config import TrainingConfig
from tools.course.output import figure, fresh_folder, scores, sized

work = fresh_folder("04_sgd_and_adam")
texts = work / "texts.txt"
articles = [row[0] for row in read_texts("builtin:bbc-news:train").rows]
texts.write_text("\n\n".join(articles[:: sized(1, small=10)]), encoding="utf-8")
backend = train_wordpiece([texts], sized(2000, small=500), lowercase=True)
backend.save(str(work / "tokenizer.json"))
corpus = pack_corpus([texts], [], work, Packing(length=64, hold_out=20), work / "store")
vocabulary = Vocabulary.of(backend)
objective = MaskedObjective(corpus.train, vocabulary, MaskingConfig(), seed=0)
held_out = MaskedObjective(corpus.held_out[:64], vocabulary, MaskingConfig(), seed=0)
print(f"{len(corpus.train):,} rows of 64 tokens, {vocabulary.size:,} pieces: a model that knows nothing has the loss "
      f"{math.log(vocabulary.size):.2f}")  # fmt: skip

# %% [markdown] lang="en"
# ## The reason, before the race
#
# SGD moves a weight in proportion to its gradient, so all weights would need gradients of about one size. Look at
# them, for the first batch: the median size of the gradient in each part of the model.

# %% [markdown] lang="zh"
# ## 比赛之前，先看原因
#
# SGD 让每个权重移动的距离与它的梯度成正比，所以各处的梯度最好差不多大。来看第一批数据上，模型各部分梯度大小的中位数。

# %%
CPU = torch.device("cpu")
batches = objective.plan(0, 16, 0)
model = new_masked_model(resolve_size("tiny", vocabulary, length=64), dropout=0.0, seed=0)
first = objective.collate(batches[0], 0, CPU)
(objective.loss(model, first) / objective.weight(first)).backward()
sizes = {name: float(p.grad.abs().median()) for name, p in model.named_parameters() if p.grad is not None}
present = {name: size for name, size in sizes.items() if size > 0}  # the second segment occurs in no text
for name in sorted(present, key=present.get)[:: max(1, len(present) // 8)]:
    print(f"{present[name]:.1e}  {name}")
spread = max(present.values()) / min(present.values())
print(f"largest median / smallest: {spread:,.0f}")

# %% [markdown] lang="en"
# One learning rate cannot suit both ends of this list. Adam divides by the usual size of each weight's own gradient,
# so every weight moves by about $\eta$ a step, wherever it is. In language there is a second reason: most tokens are
# rare, the gradients that teach them are small and seldom, and SGD learns the frequent tokens first and the rare ones
# hardly at all (Kunstner et al. 2024).
#
# ## The race
#
# All three have the product's schedule and the product's limit on the norm of the gradient; Adam is the product's
# optimizer. Why does the rate rise first? At the start the running means rest on a few batches, so the direction of a
# step is mostly noise, and a small rate limits the damage. Why does it fall to 0 at the end? The gradient of a batch
# is noisy, too; at a constant rate the weights go on jumping around a minimum, the further the larger the rate. The
# limit on the norm keeps one unusual batch from undoing what many have taught.
#
# Every run starts from the same weights, sees the same batches with the same hidden tokens, and is measured on the
# same held-out rows. So whatever differs at the end is the method and its rate.

# %% [markdown] lang="zh"
# 一个学习率不可能同时适合这张表的两头。Adam 用每个权重自己梯度的通常大小去除，所以不论在哪里，每个权重每步都走大约
# $\eta$。语言还有第二个原因：大多数词元很少见，教会它们的梯度又小又稀疏，SGD 先学会常见的词元，少见的几乎学不到
# （Kunstner 等，2024）。
#
# ## 比赛
#
# 三种方法都用产品的学习率安排和产品的梯度范数上限；Adam 就是产品的优化器。学习率为什么先升？刚开始时滑动平均只建立在
# 几批数据上，一步的方向多半是噪声，学习率小，走错了损害也小。最后为什么降到 0？一批数据的梯度同样有噪声，学习率不变的
# 话，权重会一直在极小值周围跳来跳去，学习率越大跳得越远。梯度范数的上限则防止某一批反常的数据毁掉许多批才学到的东西。
#
# 每次训练都从同样的权重出发，看同样的批次、同样的被遮词元，在同样的留出数据上测量。因此最后的差别只来自方法和学习率。

# %%
steps = sized(200, small=6)
makers = {
    "SGD": lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate),
    "SGD with momentum 0.9": lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
    "Adam": lambda model, rate: make_optimizer(model, TrainingConfig(learning_rate=rate, freeze_embeddings=False)),
}
rates = {
    "SGD": sized([0.1, 0.3, 1.0, 3.0], small=[0.3]),
    "SGD with momentum 0.9": sized([0.03, 0.1, 0.3, 1.0], small=[0.1]),
    "Adam": sized([3e-4, 1e-3, 3e-3, 1e-2], small=[1e-3]),
}


def train(name, rate):
    """Train a new model; return its loss on held-out texts, the same tokens hidden for all."""
    model = new_masked_model(resolve_size("tiny", vocabulary, length=64), dropout=0.0, seed=0).train()
    optimizer = makers[name](model, rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * warm_then_linear(step, steps, warmup=0.1)
        batch = objective.collate(batches[step % len(batches)], step // len(batches), CPU)
        (objective.loss(model, batch) / objective.weight(batch)).backward()
        clip(list(model.parameters()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return measure(model, held_out, 64)["held_out_loss"]


losses = {name: [train(name, rate) for rate in rates[name]] for name in makers}
for name, reached in losses.items():
    print(f"{name}:", *(f"{loss:.2f} at {rate:g}" for rate, loss in zip(rates[name], reached, strict=True)), sep="  ")

# %%
COLORS = ("#e08a1e", "#2f9e6e", "#3d7dd6")
WORST = math.log(vocabulary.size) + 0.5  # a run that diverged is drawn here


def draw(axes):
    """Loss by learning rate, a line for each method."""
    for (name, reached), color in zip(losses.items(), COLORS, strict=True):
        shown = [min(loss, WORST) if math.isfinite(loss) else WORST for loss in reached]
        axes.plot(rates[name], shown, "o-", color=color, label=name)
    axes.axhline(math.log(vocabulary.size), linestyle=":", color="#8a63d2", label="knows nothing")
    axes.set(xscale="log", xlabel="peak learning rate (log)", ylabel="loss on held-out texts")


figure("Loss on held-out texts after the same number of steps, by learning rate, for each method.", draw)

# %%
best = {name: min(loss for loss in reached if math.isfinite(loss)) for name, reached in losses.items()}
sgd, momentum, adam = best.values()
scores(
    f"loss after {steps} steps: SGD {sgd:.2f}, with momentum {momentum:.2f}, Adam {adam:.2f}",
    sgd=sgd, momentum=momentum, adam=adam, spread=spread, nothing=math.log(vocabulary.size),
)  # fmt: skip

# %% [markdown] lang="en"
# From {{nothing:.2f}}, SGD came to {{sgd:.2f}}, with momentum to {{momentum:.2f}}, and Adam to {{adam:.2f}}, each at
# its best rate of four. So this race has no winner: the rates of one method differ by more than the best runs of the
# three. After so few steps each model knows little more than the frequencies of the tokens, the first thing that it
# learns ([chapter 2](02_masked_pretraining.py)), and SGD learns those as well. What the table of gradients warns of,
# the rare tokens, takes longer trainings to see; Kunstner et al. measured them. Had we given SGD the rates of Adam,
# it would have "lost". Read the figure sideways, too: how wide is the valley of good rates? What carries over is the
# way to compare: the same start, the same batches, several rates for each, and held-out texts.
#
# ## Exercises
#
# 1. On $f(x, y) = (100 x^2 + y^2) / 2$ SGD diverges above a certain rate. Which one, and how many steps does $y$ then
#    need to fall to a hundredth?
# 2. Multiply the loss by 1,000. What changes for SGD, and what for the product's Adam?
# 3. The gradient is always 1. How long is a step of SGD with momentum $\mu = 0.9$ after many steps, compared to one
#    without?
#
# The answers are tests: [`tests/docs/learn/test_04_sgd_and_adam.py`](../../tests/docs/learn/test_04_sgd_and_adam.py).

# %% [markdown] lang="zh"
# 起点是 {{nothing:.2f}}；各取四个学习率中最好的一个，SGD 降到 {{sgd:.2f}}，加动量后 {{momentum:.2f}}，Adam 到
# {{adam:.2f}}。所以这场比赛没有赢家：同一种方法换一个学习率带来的差别，比三种方法最好成绩之间的差别还大。步数这么少，
# 每个模型学到的都只比词元频率多一点；频率是最先学会的东西（[第 2 章](02_masked_pretraining.py)），SGD 学它也一样好。
# 梯度表所预示的困难，也就是少见的词元，要训练得更久才看得出来，Kunstner 等人测量过。如果让 SGD 用 Adam 的学习率，它就
# “输”了。图也要横着看：好的学习率范围有多宽？真正可以带走的是比较的办法：同样的起点，同样的批次，每种方法试几个学习
# 率，在没学过的文本上评价。
#
# ## 练习
#
# 1. 在 $f(x, y) = (100 x^2 + y^2) / 2$ 上，学习率超过某个值 SGD 就会发散。这个值是多少？这时 $y$ 要多少步才能降到百分
#    之一？
# 2. 把损失乘以 1,000。对 SGD 有什么影响？对产品的 Adam 呢？
# 3. 梯度恒等于 1。动量 $\mu = 0.9$ 的 SGD 走了很多步以后，每步有多长？与不带动量的相比呢？
#
# 答案就是测试：[`tests/docs/learn/test_04_sgd_and_adam.py`](../../tests/docs/learn/test_04_sgd_and_adam.py)。
