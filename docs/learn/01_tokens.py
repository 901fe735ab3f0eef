# %% [markdown] lang="en"
# # Tokens and data
#
# How a text becomes numbers, why the vocabulary is made of word pieces, and how to split data so that a score means
# something.
#
# A neural network multiplies numbers; it cannot read. So the first part of every language model is a *tokenizer*: a
# program, without any learning at run time, that cuts a text into *tokens* and replaces each by its number in a fixed
# list, the *vocabulary*. In this chapter you look at real texts, at the tokenizer of a real model, and train a
# tokenizer yourself.
#
# ## The data
#
# This course uses two sets of English texts that come with Python packages, so that no chapter needs a network. The
# *film reviews* are sentences that 15 to 29 people rated from −4 to 4; a sentence counts as positive or negative if
# its mean rating is more than 0.5 away from zero. *BBC News* has articles about five topics.

# %% [markdown] lang="zh"
# # 词元与数据
#
# 文本怎样变成数字，词表为什么由“词片”组成，以及怎样划分数据，分数才有意义。
#
# 神经网络只会做数字运算，并不识字。所以每个语言模型的第一道工序都是*分词器*（tokenizer）：它把文本切成*词
# 元*（token），再把每个词元换成它在一张固定清单里的编号，这张清单就是*词表*（vocabulary）。这一章先看真实的文本，再看
# 一个真实模型的分词器，最后自己训练一个。
#
# ## 数据
#
# 本课程使用两套随 Python 包安装的英文文本，因此任何一章都不需要联网。*影评*（film reviews）是一些句子，每句由 15 到
# 29 个人从 −4 到 4 打分；平均分离零超过 0.5 的句子才算正面或负面。*BBC 新闻*（BBC News）是五个主题的文章。

# %%
from models.data.texts import read_texts

reviews = {part: read_texts(f"builtin:film-reviews:{part}") for part in ("train", "validation", "test")}
articles = {part: read_texts(f"builtin:bbc-news:{part}") for part in ("train", "validation", "test")}
for name, texts in (("film reviews", reviews), ("BBC News", articles)):
    print(name, {part: len(rows) for part, rows in texts.items()}, "labels:", *texts["train"].label_names())
for (sentence,), label in zip(reviews["train"].rows[:3], reviews["train"].labels[:3], strict=True):
    print(f"{label:9} {sentence}")

# %% [markdown] lang="en"
# Each set has three parts. The model learns from `train`. Decisions, such as when to stop or which learning rate is
# best, are made on `validation`. `test` is looked at once, at the end: whoever chooses by the test score has trained
# on the test set, with a slow optimizer called "you".
#
# A text that is in two parts spoils this too: the model may have learned it by heart. So the readers drop duplicates,
# and the *hash* of a text (a number computed from its letters) decides its part. The same text can then never be in
# two parts, whatever the order of the file. We check it, and look a bit closer: what about texts that differ in
# capital letters only?

# %% [markdown] lang="zh"
# 每套数据分成三份。模型从训练集（`train`）学习；什么时候停、学习率选多大，这类决定看验证集（`validation`）；测试集
# （`test`）只在最后看一次。谁按测试分数做选择，谁就等于在测试集上训练了——优化器就是你自己，只是慢一点。
#
# 同一条文本出现在两份里也会让分数失真，因为模型可能已经把它背下来了。所以读取程序会去重，并由文本的*哈希值*（从字符算
# 出来的一个数）决定它归哪一份。这样无论文件里的顺序如何，同一条文本都不会同时落在两份里。下面来检查，并且看得更细一
# 点：只有大小写不同的文本呢？

# %%
from itertools import combinations

for name, texts in (("film reviews", reviews), ("BBC News", articles)):
    for one, other in combinations(texts, 2):
        first, second = ([row[0] for row in texts[part].rows] for part in (one, other))
        same, alike = set(first) & set(second), {t.casefold() for t in first} & {t.casefold() for t in second}
        assert not same, same
        print(f"{name}: texts in both {one} and {other}: {len(same)}; but for capital letters: {len(alike)}")

# %% [markdown] lang="en"
# No text is in two parts, but one article of BBC News is in `train` and in `test` with other capital letters. This is
# what real data looks like, and why one looks at it: a rule ("no duplicates") is only as good as its definition of
# *the same*. One article among a thousand changes no score that we will see; a hundred would.

# %% [markdown] lang="zh"
# 没有一条文本同时落在两份里；但 BBC 新闻里有一篇文章以不同的大小写同时出现在 `train` 和 `test` 中。真实数据就是这样，
# 所以要亲眼去看：“没有重复”这条规则好不好，取决于怎样定义*相同*。一千篇里有一篇，不会改变后面的任何分数；有一百篇就
# 会了。

# %% [markdown] lang="en"
# ## A real tokenizer
#
# Why not give each word a number? Because there is no end of words: names, typos, inflections. A list of all words
# would be huge, and the next text would still have one that is missing. Single letters are the other extreme: nothing
# is missing, but texts become five times as long. *WordPiece* (the tokenizer of BERT) is between the two: frequent
# words are one token, rare words are several *pieces*, and a piece that continues a word begins with `##`.
#
# MiniLM, a small BERT, has a vocabulary of 30,522 pieces. Before cutting, its tokenizer makes all letters lower case
# and removes accents. Then it takes, from left to right, the longest piece that is in the vocabulary.

# %% [markdown] lang="zh"
# ## 一个真实的分词器
#
# 为什么不给每个词一个编号？因为词是列不完的：人名、拼写错误、各种词形变化。把所有词都列出来，表会大得离谱，而下一篇文
# 章里还是会有表上没有的词。另一个极端是按字母切：什么都不会缺，但文本会变成五倍长。*WordPiece*（BERT 的分词器）取其中
# 间：常见词是一个词元，少见词拆成几个*词片*，接在词中间的词片以 `##` 开头。
#
# MiniLM 是一个小型 BERT，词表有 30,522 个词片。它的分词器先把字母变成小写、去掉变音符号，然后从左到右，每次取词表里最
# 长的那一片。

# %%
from models.data.builtin import minilm_folder
from models.tokenizer import Tokenizer

minilm = Tokenizer.open(minilm_folder(), max_tokens=128)
samples = ["An unwatchably tedious, overlong film.", "Café noir: superb!", "片子很好看 👍"]
for sample in samples:
    print(sample, "→", *minilm.token_strings(minilm.encode([(sample,)])[0].ids))
batch = minilm.batch([(sample,) for sample in samples])
print("ids", batch.ids.shape, batch.ids[1].tolist())
print("mask", batch.mask[1].tolist())

# %% [markdown] lang="en"
# Four things to see. `[CLS]` and `[SEP]` mark the beginning and the end; a classifier later reads the answer at
# `[CLS]`. The thumb became `[UNK]`, *unknown*: whatever it said is lost before the model begins. Most of these
# Chinese characters became unknown as well, which is why Chinese needs a tokenizer of its own (chapter 9). And the
# rows of a batch have one length: shorter ones are filled with `[PAD]`, number 0, and the *mask* says 0 there, so
# that the model can ignore them. Chapter 2 shows what happens to a model that is not told.
#
# ## Train one
#
# The pieces are learned from texts by *merging* (Sennrich et al. 2016). Begin with single characters. Count all pairs
# of neighbours, $c(a, b)$, join the most frequent pair to a new piece, and repeat until the vocabulary has the wanted
# size:
#
# $$(a^*, b^*) = \mathrm{argmax}_{a, b}\; c(a, b), \qquad V \leftarrow V \cup \{a^* b^*\}$$
#
# `train_wordpiece` does this, on the training articles only. The larger the vocabulary, the fewer tokens a word
# needs, so the model has less to compute; but each piece has a row in the model's *embedding table*, and a piece that
# is seen only three times learns little. We train several sizes and count the tokens for each word of texts that were
# not used: other articles, and film reviews, which are another kind of text.

# %% [markdown] lang="zh"
# 这里有四点值得看。`[CLS]` 和 `[SEP]` 标出开头和结尾，分类器以后就在 `[CLS]` 的位置读出答案。大拇指变成了 `[UNK]`，
# 即*未知*：它想说的话，模型还没开始就已经丢了。这几个汉字也大多不在词表里，所以中文需要自己的分词器（第 9 章）。另
# 外，一批数据的各行长度必须相同：短的行用编号为 0 的 `[PAD]` 补齐，*掩码*（mask）在这些位置上是 0，告诉模型不要看。如
# 果不告诉它会怎样，第 2 章会讲。
#
# ## 自己训练一个
#
# 词片是从文本里一步步*合并*学出来的（Sennrich 等，2016）。先从单个字符开始，数出所有相邻片段对的次数 $c(a, b)$，把最
# 常见的一对合成一个新词片；如此重复，直到词表达到想要的大小：
#
# $$(a^*, b^*) = \mathrm{argmax}_{a, b}\; c(a, b), \qquad V \leftarrow V \cup \{a^* b^*\}$$
#
# `train_wordpiece` 就是这样做的，而且只用训练集的文章。词表越大，每个词需要的词元越少，模型要算的也越少；但每个词片在
# 模型的*嵌入表*里要占一行，只出现过三次的词片也学不到什么。下面训练几种大小，再在没有用过的文本上数每个词要几个词元：
# 一种是别的文章，另一种是影评，文体完全不同。

# %%
from models.pretraining.wordpiece import train_wordpiece
from tools.course.output import figure, fresh_folder, scores, sized

corpus = fresh_folder("01_tokens") / "articles.txt"
corpus.write_text("\n".join(row[0] for row in articles["train"].rows), encoding="utf-8")
sizes = sized([500, 1000, 2000, 4000, 8000, 16000], small=[500, 1000])
tokenizers = {size: Tokenizer(train_wordpiece([corpus], size, lowercase=True), max_tokens=10_000) for size in sizes}


def tokens_per_word(tokenizer, texts):
    """Count the tokens of whole texts, without [CLS] and [SEP], and divide by the words between spaces."""
    tokens = sum(len(row.ids) - 2 for row in tokenizer.encode(texts.rows))
    return tokens / sum(len(row[0].split()) for row in texts.rows)


lines = {
    "other articles": [tokens_per_word(tokenizers[size], articles["test"]) for size in sizes],
    "film reviews": [tokens_per_word(tokenizers[size], reviews["test"]) for size in sizes],
}
for size, *values in zip(sizes, *lines.values(), strict=True):
    print(
        f"{size:6} pieces:",
        *(f"{value:.2f} tokens a word of {name}" for name, value in zip(lines, values, strict=True)),
    )


# %%
def draw(axes):
    """Tokens a word against the size of the vocabulary."""
    for (name, values), color in zip(lines.items(), ("#3d7dd6", "#d6453d"), strict=True):
        axes.plot(sizes, values, "o-", color=color, label=name)
    axes.set(xscale="log", xlabel="pieces in the vocabulary (log)", ylabel="tokens a word")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()


figure("A larger vocabulary needs fewer tokens for a word, and more for texts of another kind.", draw)

# %% [markdown] lang="en"
# Each doubling buys less than the one before. And the tokenizer is a model, too: it has learned the words of the
# news, so it cuts film reviews into more pieces. This is the first example of a rule that returns in every chapter:
# *measure on texts like those that you will serve*.

# %% [markdown] lang="zh"
# 词表每翻一倍，省下的都比上一次少。分词器本身也是学出来的：它学的是新闻用词，所以影评会被切得更碎。一条贯穿全课程的规
# 则在这里第一次出现：*要在与实际使用相似的文本上测量*。

# %%
best = lines["other articles"][-1]
scores(f"{best:.2f} tokens a word with {sizes[-1]:,} pieces", articles=best, reviews=lines["film reviews"][-1])

# %% [markdown] lang="en"
# With {{articles:.2f}} tokens for each word of a news article and {{reviews:.2f}} for each word of a review,
# punctuation included, this tokenizer is ready for the next chapter, where a model learns to guess hidden tokens.
#
# ## Exercises
#
# 1. Which words of `An unwatchably tedious, overlong film.` are one token in MiniLM's vocabulary, and why is
#    `unwatchably` not?
# 2. Text that is too long is cut. Tokenize a long review with `max_tokens=8`, once with `direction="right"` and once
#    with `"left"`. Which tokens stay in both cases?
# 3. Train two vocabularies of 1,000 pieces, one with `lowercase=True`, one with `False`. Which of the two needs more
#    tokens a word, and why?
#
# The answers are tests: [`tests/docs/learn/test_01_tokens.py`](../../tests/docs/learn/test_01_tokens.py). Next:
# [masked pretraining](02_masked_pretraining.py).

# %% [markdown] lang="zh"
# 连标点在内，新闻每个词平均要 {{articles:.2f}} 个词元，影评要 {{reviews:.2f}} 个。分词器准备好了，下一章让模型学着猜
# 出被遮住的词元。
#
# ## 练习
#
# 1. `An unwatchably tedious, overlong film.` 里，哪些词在 MiniLM 的词表中是一个词元？`unwatchably` 为什么不是？
# 2. 太长的文本会被截断。用 `max_tokens=8` 切一条长影评，`direction` 分别取 `"right"` 和 `"left"`，哪些词元两次都留下
#    了？
# 3. 训练两个 1,000 词片的词表，一个 `lowercase=True`，一个 `False`。哪一个每词需要的词元更多？为什么？
#
# 答案就是测试：[`tests/docs/learn/test_01_tokens.py`](../../tests/docs/learn/test_01_tokens.py)。下一
# 章：[遮盖预训练](02_masked_pretraining.py)。
