# %% [markdown] lang="en"
# # Fine-tuning
#
# How a pretrained model learns a task from labelled texts, what accuracy, precision, recall and F1 count, and how the
# same model predicts a number.
#
# A pretrained model knows the language, but has no opinion about films. *Fine-tuning* adds a small *head* on top,
# which turns the state at one token (or the mean over all) into one number for each label, and then trains head and
# model together on labelled texts. Because most of the knowledge is there, a few thousand texts and one or two passes
# over them are enough.
#
# ## A classifier
#
# The encoder is MiniLM: 6 layers, 384 wide, 22.7 million weights. To fit into a few minutes, we take a part of the
# training sentences. The validation sentences go along, so that the training can report how it does on texts that it
# does not learn from.

# %% [markdown] lang="zh"
# # 微调
#
# 预训练好的模型怎样从有标注的文本学会一项任务，准确率、精确率、召回率和 F1 各数的是什么，以及同一个模型怎样预测一个
# 数。
#
# 预训练过的模型懂语言，但对电影没有看法。*微调*就是在它上面加一个小小的*输出头*（head），把某一个词元的状态（或者所有
# 词元的平均）变成每个标签一个数，然后让输出头和模型一起在有标注的文本上训练。知识大半已经在那里了，所以几千条文本、看
# 一两遍就够。
#
# ## 一个分类器
#
# 编码器用 MiniLM：6 层，宽 384，2270 万个权重。为了在几分钟内跑完，只取一部分训练句子。验证集的句子也交给训练程序，
# 让它报告在没有学过的文本上表现如何。

# %%
import json

import numpy as np

from models.data.texts import read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.train.training_config import TrainingConfig
from tools.course.output import figure, fresh_folder, scores, sized

work = fresh_folder("03_finetuning")
settings = FinetuneConfig(
    max_tokens=48, training=TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-4, precision="fp32")
)


def train_on(name, kind):
    """Fine-tune MiniLM on a part of a built-in set; return its folder, training rows and test rows."""
    train, validation, test = (
        read_texts(f"builtin:{name}:{part}", kind=kind) for part in ("train", "validation", "test")
    )
    train, validation = train.take(range(sized(1600, small=48))), validation.take(range(sized(200, small=20)))
    folder = finetune("builtin:minilm-l6", Splits(train, validation), settings, work / "store").folder.path
    return folder, train, test.take(range(sized(1000, small=60)))


folder, train, test = train_on("film-reviews", "single")
print(
    json.dumps(
        {k: v for k, v in json.loads((folder / "report.json").read_text()).items() if k != "details"}, indent=1
    )
)

# %% [markdown] lang="en"
# ## What the scores count
#
# Now the test sentences. The classifier gives two logits for each, softmax makes probabilities of them, and the
# larger one is the answer. Take *positive* as the label of interest. Every answer falls into one of four cells: true
# positives $TP$ (found, rightly), false positives $FP$ (found, wrongly), false negatives $FN$ (missed) and true
# negatives $TN$. All scores are counts of these cells:
#
# $$\mathrm{accuracy} = \frac{TP + TN}{TP + FP + FN + TN}$$
#
# $$\mathrm{precision} = \frac{TP}{TP + FP}, \qquad \mathrm{recall} = \frac{TP}{TP + FN}$$
#
# $$F_1 = \frac{2 \cdot \mathrm{precision} \cdot \mathrm{recall}}{\mathrm{precision} + \mathrm{recall}}$$
#
# Precision asks: of those that I named, how many are right? Recall asks: of those that are there, how many did I
# find? $F_1$, their harmonic mean, is high only if both are. *Macro* $F_1$ is the mean over the labels, so that a
# rare label counts as much as a frequent one. We count by hand, beside the product's `score`.

# %% [markdown] lang="zh"
# ## 分数数的是什么
#
# 现在轮到测试句子。分类器给每句两个 logit，softmax 把它们变成概率，较大的就是答案。把“正面”当作要找的标签，每个答案
# 都落在四格之一：真正例 $TP$（找到了，对）、假正例 $FP$（找到了，错）、假反例 $FN$（漏掉了）和真反例 $TN$。所有分数都
# 由这四格的数目算出：
#
# $$\mathrm{accuracy} = \frac{TP + TN}{TP + FP + FN + TN}$$
#
# $$\mathrm{precision} = \frac{TP}{TP + FP}, \qquad \mathrm{recall} = \frac{TP}{TP + FN}$$
#
# $$F_1 = \frac{2 \cdot \mathrm{precision} \cdot \mathrm{recall}}{\mathrm{precision} + \mathrm{recall}}$$
#
# 准确率（accuracy）是答对的比例。精确率（precision）问：我说是的里面，有多少真的是？召回率（recall）问：真正是的里
# 面，我找到了多少？$F_1$ 是后两者的调和平均，只有两个都高它才高。*宏平均* $F_1$ 是各标签 $F_1$ 的平均，让少见的标签和
# 常见的一样重要。下面手工数一遍，旁边放上产品的 `score`。

# %%
from models.checkpoint import load_checkpoint
from models.finetuning.metrics import score, standard_error
from models.finetuning.predict import predict
from models.task import Task
from models.tokenizer import Tokenizer


def answers_of(folder, texts):
    """Return the task of a fine-tuned model, and its scores for texts, (rows, labels)."""
    task = Task.read(folder / "task.json")
    tokenizer = Tokenizer.open(folder, task.max_tokens)
    return task, task.scores(predict(load_checkpoint(folder), tokenizer.encode(texts.rows), tokenizer))


task, probabilities = answers_of(folder, test)
truth, positive = test.targets(task), task.labels.index("positive")
said, is_so = probabilities.argmax(axis=1) == positive, truth == positive
tp, fp, fn, tn = (int(cell.sum()) for cell in (said & is_so, said & ~is_so, ~said & is_so, ~said & ~is_so))
precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
by_hand = {"accuracy": (tp + tn) / len(truth), "precision": precision, "recall": recall}
by_hand["f1"] = 2 * precision * recall / max(precision + recall, 1e-9)
product = score(task, truth, probabilities)
of_label = product.labels[positive]
for name, value in by_hand.items():
    theirs = product.accuracy if name == "accuracy" else getattr(of_label, name)
    print(f"{name:9} by hand {value:.4f}, product {theirs:.4f}")
    assert abs(value - theirs) < 1e-6
error = standard_error("accuracy", product.accuracy, len(truth))
print(f"TP {tp}, FP {fp}, FN {fn}, TN {tn}; macro F1 {product.macro_f1:.4f}; accuracy ± {1.96 * error:.3f} (95 %)")

# %% [markdown] lang="en"
# A score means little alone. Two baselines cost nothing: a machine that always says *positive* finds every positive
# sentence, recall 1, without reading one; and word counts with a linear model (TF-IDF), which know words but no
# order. A model that does not beat the second is not worth its electricity. The interval matters, too: with 1,000
# test sentences, two accuracies that differ by two points may well be equal.

# %% [markdown] lang="zh"
# 单独一个分数说明不了什么。有两个不花钱的对照：一台永远回答“正面”的机器，一句不读就能找到全部正面句子，召回率是 1；
# 另一个是词频加线性模型（TF-IDF），认识词，但不懂词序。赢不了后者的模型，不值它耗的电。误差范围也要看：只有 1,000 个
# 测试句子时，相差两个百分点的两个准确率，实际上很可能一样高。

# %%
from bench.engines.tfidf import tfidf_engine
from bench.measure.engine_spec import EngineSpec

words = tfidf_engine(EngineSpec("tfidf", folder, task, train=train))
simple = score(task, truth, task.scores(words.answer(words.prepare(test.rows, None))))
always = score(task, truth, np.eye(2, dtype=np.float32)[[positive] * len(truth)])
for name, one in {"always positive": always, "TF-IDF": simple, "MiniLM": product}.items():
    label = one.labels[positive]
    print(f"{name:15} accuracy {one.accuracy:.3f}, F1 {label.f1:.3f}", end=" ")
    print(f"(precision {label.precision:.3f}, recall {label.recall:.3f})")

# %% [markdown] lang="en"
# The answer need not change at a probability of 0.5. Who must not miss a positive sentence says *positive* from 0.2
# on: recall rises, precision falls. The figure has all thresholds.

# %% [markdown] lang="zh"
# 判为正面的界线不一定是概率 0.5。如果正面句子一句都不想漏，可以从 0.2 起就算正面：召回率上升，精确率下降。图里画出了
# 所有的阈值。

# %%
thresholds = np.linspace(0.02, 0.98, 49)
named = probabilities[:, [positive]] >= thresholds  # (rows, thresholds)
hits = (named & is_so[:, None]).sum(axis=0)
curves = {"precision": hits / np.maximum(named.sum(axis=0), 1), "recall": hits / max(is_so.sum(), 1)}
curves["F1"] = 2 * hits / (named.sum(axis=0) + is_so.sum())


def draw(axes):
    """Precision, recall and F1 by threshold."""
    for (name, values), color in zip(curves.items(), ("#3d7dd6", "#d6453d", "#2f9e6e"), strict=True):
        axes.plot(thresholds, values, color=color, label=name)
    axes.set(
        xlabel="probability from which a sentence counts as positive", ylabel="score", xlim=(0, 1), ylim=(0, 1.02)
    )


figure("A higher threshold trades recall for precision.", draw)

# %% [markdown] lang="en"
# ## A number instead of a label
#
# The sentences have ratings from −4 to 4, and a label throws away how good a film is. *Regression* predicts the
# number: the head has one output $\hat y$, without softmax, and the loss is the *mean squared error*
#
# $$\mathrm{MSE} = \frac{1}{n} \sum_{i=1}^{n} (\hat y_i - y_i)^2$$
#
# The product starts the output at the mean of the training ratings. A machine that always says this mean has an MSE
# of about the *variance* of the ratings: that is the score to beat. Its root (RMSE) is in the unit of the ratings.

# %% [markdown] lang="zh"
# ## 预测一个数，而不是标签
#
# 这些句子本来有 −4 到 4 的评分，变成标签就丢掉了“有多好”。*回归*直接预测这个数：输出头只有一个输出 $\hat y$，没有
# softmax，损失是*均方误差*：
#
# $$\mathrm{MSE} = \frac{1}{n} \sum_{i=1}^{n} (\hat y_i - y_i)^2$$
#
# 产品让输出从训练评分的平均值开始。永远回答这个平均值的机器，MSE 大约就是评分的*方差*：这就是必须超过的成绩。MSE 的平
# 方根（RMSE）与评分同单位。

# %%
import torch

from models.finetuning.losses import LossConfig, label_loss

rating_folder, rating_train, rating_test = train_on("film-reviews-rating", "regression")
rating_task, predicted = answers_of(rating_folder, rating_test)
ratings = rating_test.targets(rating_task)
mse = float(np.mean((predicted[:, 0].astype(np.float64) - ratings) ** 2))
loss = label_loss(rating_task, ratings, LossConfig())(torch.from_numpy(predicted), torch.arange(len(ratings)))
assert abs(float(loss) / len(ratings) - mse) < 1e-5 * mse
mean_mse = float(np.mean((np.mean(rating_train.labels) - ratings) ** 2))
numbers = score(rating_task, ratings, predicted)
print(f"MSE {mse:.3f} (always the mean: {mean_mse:.3f}), RMSE {numbers.rmse:.3f}, correlation {numbers.pearson:.3f}")
scores(
    f"F1 {by_hand['f1']:.3f}, accuracy {by_hand['accuracy']:.1%}; ratings: MSE {mse:.2f} (mean: {mean_mse:.2f})",
    **by_hand, macro_f1=product.macro_f1, tfidf=simple.accuracy, mse=mse, mean_mse=mean_mse, pearson=numbers.pearson,
)  # fmt: skip

# %% [markdown] lang="en"
# With {{accuracy:.1%}} of the test sentences right, against {{tfidf:.1%}} for word counts, and an MSE of {{mse:.2f}}
# against {{mean_mse:.2f}}, pretraining has paid off after one pass over 1,600 sentences. More rows and passes bring
# more; [the page on training](../training.md) has the recipe that the command `prunella finetune` chooses by itself.
#
# ## Exercises
#
# 1. A share $p$ of the sentences is positive. What are accuracy, precision, recall and $F_1$ of the machine that
#    always says *positive*? Check with `score`.
# 2. Find the threshold with the best $F_1$, with `choose_thresholds`, on one half of some answers, and score it on
#    the other half. Why not on the same half?
# 3. Which constant has the smallest mean squared error? Which one the smallest mean absolute error?
#
# The answers are tests: [`tests/docs/learn/test_03_finetuning.py`](../../tests/docs/learn/test_03_finetuning.py).
# Next: [SGD against Adam](04_sgd_and_adam.py).

# %% [markdown] lang="zh"
# 测试句子答对了 {{accuracy:.1%}}，词频模型是 {{tfidf:.1%}}；MSE 是 {{mse:.2f}}，总猜平均值是 {{mean_mse:.2f}}。1,600
# 个句子只看了一遍，预训练就已经见效了。数据更多、多看几遍还会更好；[训练的文档](../training.md)介绍了
# `prunella finetune` 命令自动选用的配方。
#
# ## 练习
#
# 1. 设正面句子的比例是 $p$。永远回答“正面”的机器，准确率、精确率、召回率和 $F_1$ 各是多少？用 `score` 验证。
# 2. 用 `choose_thresholds` 在一半答案上找出 $F_1$ 最高的阈值，再在另一半上算分。为什么不能在同一半上算？
# 3. 哪个常数的均方误差最小？哪个常数的平均绝对误差最小？
#
# 答案就是测试：[`tests/docs/learn/test_03_finetuning.py`](../../tests/docs/learn/test_03_finetuning.py)。下一
# 章：[SGD 与 Adam](04_sgd_and_adam.py)。
