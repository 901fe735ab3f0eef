# %% [markdown] lang="en"
# # Distillation: a small model learns from a large one
#
# Why the answers of a large model teach more than labels do, what the temperature is for, and how a badly pruned
# model is healed.
#
# The previous chapter pruned without training. If more is cut than linear algebra can make up for, the model must
# *heal*: it is trained again. One could train it on the labels, as in [chapter 3](03_finetuning.py). But we have
# something better: the full model. In *distillation* (Hinton et al. 2015) the small model, the *student*, learns to
# give the answers of the large one, the *teacher*.
#
# Why is that better? A label says `positive`, and nothing else. The teacher says that this sentence is positive with
# 97 %, and that other one with 58 %: it shows which sentences are hard, and how close they are to the border. Hinton
# called it *dark knowledge*. And the teacher can answer any text, so the student can also learn from texts that
# nobody has labelled.

# %% [markdown] lang="zh"
# # 蒸馏：小模型向大模型学习
#
# 为什么大模型的回答能比标签教会学生更多，温度起什么作用，以及怎样治好一个被剪得太狠的模型。
#
# 上一章的剪枝没有训练。如果剪掉的太多，线性代数补不回来，模型就需要*修复*，也就是再训练。可以
# 像[第 3 章](03_finetuning.py)那样用标签训练。不过我们手里有更好的东西：完整的模型。在*蒸馏*（distillation，Hinton
# 等，2015）中，小模型（*学生*）学着给出大模型（*教师*）的回答。
#
# 为什么这样更好？标签只说一个 `positive`，别的什么也没有。教师却会说：这一句有 97 % 是正面，那一句只有 58 %。它告诉学
# 生哪些句子难、离分界线有多近。Hinton 把这叫作*暗知识*。而且教师能回答任何文本，所以学生也可以从没人标注过的文本里学
# 习。

# %%
from models.classifier_folder import open_classifier
from models.finetuning.predict import predict
from tools.course.film_classifier import film_classifier
from tools.course.output import figure, fresh_folder, scores, sized

film = film_classifier()
teacher, task, tokenizer = open_classifier(film.folder)
train, test = tokenizer.encode(film.train.rows), tokenizer.encode(film.test.rows)
truth, answers = film.test.targets(task), predict(teacher, test, tokenizer)


def judge(classifier):
    """Return the share of right answers, and the share of answers that are the teacher's."""
    labels = predict(classifier, test, tokenizer).argmax(1)
    return float((labels == truth).mean()), float((labels == answers.argmax(1)).mean())


of_teacher = float((answers.argmax(1) == truth).mean())
print(f"accuracy of the teacher: {of_teacher:.1%}")

# %% [markdown] lang="en"
# ## Temperature
#
# A well-trained teacher is very sure of itself: its probabilities are close to 0 and 1, and what they say beyond the
# label is hidden in the third decimal. So the logits $z$ are divided by a *temperature* $T$ before the softmax, in
# the teacher and in the student. With $T > 1$ the probabilities become softer. The loss is the *Kullback-Leibler
# divergence* of the student's distribution $q$ from the teacher's $p$:
#
# $$L = T^2 \sum_i p_i \log \frac{p_i}{q_i}, \qquad p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}$$
#
# It is 0 if both agree. The factor $T^2$ keeps the gradients equally large whatever $T$ is, because dividing the
# logits by $T$ makes them $T^2$ times smaller. The product's function is `divergence`; we check it against the
# formula.

# %% [markdown] lang="zh"
# ## 温度
#
# 训练好的教师非常自信：概率都接近 0 或 1，标签之外的信息藏在小数点后第三位。所以在教师和学生那里，logit $z$ 在
# softmax 之前都先除以*温度* $T$。$T > 1$ 时概率变得平缓。损失是学生的分布 $q$ 相对教师的分布 $p$ 的 *KL 散
# 度*（Kullback-Leibler divergence）：
#
# $$L = T^2 \sum_i p_i \log \frac{p_i}{q_i}, \qquad p_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}$$
#
# 两者一致时它等于 0。因子 $T^2$ 让梯度大小不随 $T$ 改变，因为把 logit 除以 $T$ 会让梯度缩小 $T^2$ 倍。产品里的函数是
# `divergence`，下面用公式来核对。

# %%
import torch

from models.train.divergence import divergence

logits = torch.from_numpy(answers)
for temperature in (1.0, 2.0, 4.0):
    row = (logits[1] / temperature).softmax(-1).tolist()
    print(f"temperature {temperature:g}:", *(f"{label} {p:.3f}" for label, p in zip(task.labels, row, strict=True)))
student_logits, temperature = torch.zeros_like(logits), 2.0  # a student that knows nothing: 50 to 50
p, q = (logits / temperature).softmax(-1), (student_logits / temperature).softmax(-1)
by_hand = temperature**2 * (p * (p.log() - q.log())).sum(-1)
product = divergence("single", student_logits, logits, temperature)
print(f"largest difference between the formula and the product's loss: {float((by_hand - product).abs().max()):.1e}")
assert torch.allclose(by_hand, product, atol=1e-5)

# %% [markdown] lang="en"
# ## A student that needs healing
#
# The student is the teacher, pruned as in [chapter 5](05_pruning.py), but harder: 4 of 12 heads and 128 of 1,536
# neurons stay in each layer. It starts from the teacher's own weights, which is a great advantage: a student with
# random weights would have to learn the language first.

# %% [markdown] lang="zh"
# ## 需要修复的学生
#
# 学生就是按[第 5 章](05_pruning.py)剪过的教师，只是剪得更狠：每层 12 个头留 4 个，1,536 个神经元留 128 个。它从教师自
# 己的权重出发，这是很大的便宜：权重随机的学生，得先从头学语言。

# %%
from compress.pruning.gram import collect_grams, output_bias, output_matrix
from compress.pruning.obs import prune_to_each_width, removal_order
from compress.pruning.surgery import cut
from compress.quantization.calibration import TextBatches
from models.classifier import TensorBatch
from models.sublayer import SublayerId

batches = [TensorBatch(batch) for batch in TextBatches(film.train.rows[: sized(512, small=16)], tokenizer)]
grams, layers = collect_grams(teacher, batches), len(teacher.architecture.layers)
pruned = {}
for name in SublayerId.keys(layers)[sized(0, small=10) :]:
    attention = name.endswith("attention")
    matrix = output_matrix(teacher, name)
    full = torch.cat([matrix.weight.detach(), output_bias(matrix)[:, None]], dim=1)
    order = removal_order(matrix.weight.detach(), grams[name], teacher.architecture.head_size if attention else 1)
    keep = 4 if attention else 128
    pruned[name] = prune_to_each_width(full, grams[name], order, [keep])[keep]
weak = cut(teacher, pruned)
size = [sum(p.numel() for p in one.encoder.layers.parameters()) for one in (teacher, weak)]
print(f"{size[1] / size[0]:.0%} of the layers' weights are left; accuracy {judge(weak)[0]:.1%}")

# %% [markdown] lang="en"
# ## Three ways to heal
#
# Three copies of this student are trained on the same 1,600 sentences, in the same order, for the same number of
# steps:
#
# - with the **labels** and cross entropy, as in fine-tuning;
# - with the **teacher's answers** and the loss above, without labels;
# - with answers **and states**: the student must also come close to the teacher's hidden states after the middle and
#   the last layer. The squared error is divided by the squared norm of the states, so that 1 means "as wrong as
#   zeros" (Sun et al. 2019). Each token gives 384 numbers to learn from, while an answer gives only two.
#
# The teacher runs only once: `teach` stores its answers and states in files, and every step reads them from there.

# %% [markdown] lang="zh"
# ## 三种修复方法
#
# 把这个学生复制三份，在同样的 1,600 个句子上、按同样的顺序、训练同样多的步数：
#
# - 用**标签**和交叉熵，与微调相同；
# - 用**教师的回答**和上面的损失，不用标签；
# - 用回答**加隐藏状态**：学生还要在中间一层和最后一层之后接近教师的隐藏状态。平方误差除以状态的平方范数，所以 1 表示
#   “和全零一样差”（Sun 等，2019）。一个回答只有两个数，而每个词元能提供 384 个数来学。
#
# 教师只运行一次：`teach` 把它的回答和状态存进文件，之后每一步都从文件读取。

# %%
import copy

import numpy as np

from compress.config import DistillConfig
from compress.healing.distill import DistillationData, distill
from compress.healing.teacher_cache import Teacher, teach
from models.finetuning.losses import LossConfig, loss_for
from models.finetuning.text_objective import TextObjective
from models.train.loop import TrainingConfig, fit

taught = fresh_folder("06_distillation") / "taught"
taught.mkdir()
teach(teacher, train, tokenizer, [layers // 2 - 1, layers - 1], taught)
numbers = np.arange(len(train))
lessons = DistillationData(
    Teacher.open(taught, train), train, np.stack([numbers, numbers], axis=1), tokenizer, task.kind
)
training = TrainingConfig(epochs=1, learning_rate=3e-4, freeze_embeddings=True)
students = {"before healing": weak}
students["labels"] = copy.deepcopy(weak)
fit(
    students["labels"],
    TextObjective(train, tokenizer, loss_for(task, film.train.targets(task), LossConfig())),
    training,
)
for name, weight in (("teacher's answers", 0.0), ("answers and states", 1.0)):
    students[name] = copy.deepcopy(weak)
    distill(students[name], lessons, DistillConfig(temperature=2.0, hidden_weight=weight, training=training))
results = {name: judge(student) for name, student in students.items()}
for name, (accuracy, agreement) in results.items():
    print(f"{name:18} accuracy {accuracy:.1%}, same answer as the teacher {agreement:.1%}")


# %%
def draw(axes):
    """Accuracy and agreement of each student."""
    places = np.arange(len(results))
    axes.bar(places - 0.2, [100 * one for one, _ in results.values()], 0.4, color="#3d7dd6", label="accuracy")
    axes.bar(places + 0.2, [100 * one for _, one in results.values()], 0.4, color="#2f9e6e", label="as the teacher")
    axes.axhline(100 * of_teacher, color="#d6453d", linestyle="--", label="accuracy of the teacher")
    axes.set_xticks(places, [name.replace(" ", "\n", 1) for name in results])
    axes.set(ylabel="% of the test reviews", ylim=(40, 100))


figure("A pruned student before healing, and after one epoch with labels, with answers, and with states too.", draw)

# %% [markdown] lang="en"
# Before healing the student answers {{before:.1%}} right; the teacher {{teacher:.1%}}. One epoch brings it to
# {{labels:.1%}} with labels, {{answers:.1%}} with the teacher's answers, and {{states:.1%}} with answers and states.
# How much of that is chance? With 1,000 test sentences, an accuracy is uncertain by up to {{error:.1f}} points (95
# %), so only larger differences mean something; a second seed tells more than a second decimal.
#
# The *agreement* is the more sensitive figure: the share of sentences on which student and teacher give the same
# answer, whether right or wrong. It is {{agree_labels:.1%}}, {{agree_answers:.1%}} and {{agree_states:.1%}}. A
# compressed model should be a drop-in replacement, so this is what one wants to be high.

# %% [markdown] lang="zh"
# 修复之前，学生答对 {{before:.1%}}，教师是 {{teacher:.1%}}。训练一轮之后，用标签的达到 {{labels:.1%}}，用教师回答的达
# 到 {{answers:.1%}}，用回答加状态的达到 {{states:.1%}}。其中有多少是偶然？测试句子有 1,000 条，准确率的不确定范围最多
# 是 {{error:.1f}} 个百分点（95 %），只有更大的差别才有意义；换一个随机种子，比多看一位小数更有用。
#
# 更灵敏的指标是*一致率*：学生与教师回答相同的句子所占比例，不论对错。三者分别是
# {{agree_labels:.1%}}、{{agree_answers:.1%}} 和 {{agree_states:.1%}}。压缩后的模型应该能直接替换原来的，所以我们希望
# 这个数高。

# %%
error = 196 * float(np.sqrt(0.25 / len(test)))  # of one accuracy, in points, at most
scores(
    f"{results['answers and states'][0]:.1%} healed, {results['before healing'][0]:.1%} before",
    teacher=of_teacher,
    before=results["before healing"][0],
    labels=results["labels"][0],
    answers=results["teacher's answers"][0],
    states=results["answers and states"][0],
    agree_labels=results["labels"][1],
    agree_answers=results["teacher's answers"][1],
    agree_states=results["answers and states"][1],
    share=size[1] / size[0],
    error=error,
)

# %% [markdown] lang="en"
# With {{share:.0%}} of the layers' weights, that is what one epoch on 1,600 sentences gives.
# `prunella compress` does the same for longer (`--mode standard`: ten epochs or 40 minutes), and `--texts` adds texts
# without labels, which help a lot ([measured](../results/compression.md)). To train a *new* model with a teacher
# instead of a pruned one, `prunella finetune --teacher FOLDER` uses the same loss beside the labels
# ([training](../training.md)); the teacher may then be any classifier of transformers, or a file with the scores of
# an LLM.
#
# ## Exercises
#
# 1. What does the loss become if the temperature is very high? Compare $T^2 \cdot \mathrm{KL}$ with the squared
#    difference of the logits, each centred on its mean.
# 2. A student that equals the teacher has loss 0. Show that its gradient is 0 as well, and that this does not hold
#    for the cross entropy with labels.
# 3. `augment` makes variants of texts for the student. Why need a variant not have the label of its text? Check that
#    variants are never longer than their text, and keep its special tokens.
#
# The answers are tests: [`tests/docs/learn/test_06_distillation.py`](../../tests/docs/learn/test_06_distillation.py).
# Next: [int8](07_int8.py).

# %% [markdown] lang="zh"
# 只用各层 {{share:.0%}} 的权重，在 1,600 个句子上训练一轮就是这样的结果。`prunella compress` 做的是同一件事，只是更久
# （`--mode standard`：十轮或 40 分钟）；`--texts` 再加上没有标签的文本，帮助很大
# （[测量结果](../results/compression.md)）。如果要在教师指导下训练一个*新*模型，而不是剪过的模
# 型，`prunella finetune --teacher FOLDER` 会在标签之外使用同样的损失（[训练](../training.md)）；教师可以是
# transformers 的任何分类器，也可以是写有大语言模型打分的文件。
#
# ## 练习
#
# 1. 温度非常高时，损失会变成什么？把 $T^2 \cdot \mathrm{KL}$ 与两组各自减去均值的 logit 之差的平方作比较。
# 2. 与教师完全相同的学生，损失为 0。证明它的梯度也为 0，而用标签的交叉熵却不是这样。
# 3. `augment` 为学生生成文本的变体。为什么变体不必具有原文的标签？验证变体从不比原文长，并且保留其特殊词元。
#
# 答案就是测试：[`tests/docs/learn/test_06_distillation.py`](../../tests/docs/learn/test_06_distillation.py)。下一
# 章：[int8](07_int8.py)。
