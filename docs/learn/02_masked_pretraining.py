# %% [markdown] lang="en"
# # Masked pretraining
#
# How a model learns a language from texts without labels, what its loss and its optimizer compute, and how to check
# that a model is the one you think it is.
#
# *Pretraining* teaches a model the language before it gets a task. BERT (Devlin et al. 2019) does it with a cloze
# test: hide 15 % of the tokens, and let the model guess them from the rest. The texts themselves are the answers, so
# no person has to label anything.
#
# ## Is it BERT?
#
# This course grew out of an article for beginners, and the article has a short BERT made of `nn.TransformerEncoder`.
# It is a friendly start, and its description of Adam is right; a few other parts are easy to get wrong, and it is
# worth knowing how one would notice. As printed, some names in it are undefined; Python itself says so when it gets
# there. The other parts are harder to see. The encoder gets no *positions*, so it sees a bag of words. It gets no
# *padding mask*, so a text is read differently when a longer one is in the same batch. The loss gets labels for which
# there is no output layer (a *head*), so it compares them with states that stand for no label. And the formula for
# *word embeddings* is a softmax over queries, keys and values. A word embedding is simply a row of a table, chosen by
# the number of the token. Queries, keys and values belong to attention; Vaswani et al. (2017) compute it as follows,
# with queries $Q$, keys $K$, values $V$ and the width $d$ of a head:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V$$
#
# The softmax turns scores between tokens into weights that sum to 1; the values are mixed with these weights, after
# the softmax. How does one find such mistakes? Not by reading alone: a wrong model trains, too, and is only a bit
# worse. One finds them by *equality*: give the same weights and the same input to an implementation that many people
# have tested, here BERT of `transformers`, and compare the numbers. First the formula beside the product's function:

# %% [markdown] lang="zh"
# # 遮盖预训练
#
# 模型怎样从没有标注的文本里学会语言，损失函数和优化器到底算了什么，以及怎样确认一个模型确实是你以为的那个。
#
# *预训练*就是在给任务之前先让模型学会语言。BERT（Devlin 等，2019）用的办法是完形填空：遮住 15 % 的词元，让模型根据其
# 余部分猜出来。答案就在文本里，不需要任何人标注。
#
# ## 这是 BERT 吗？
#
# 本课程源自一篇写给初学者的文章，文中用 `nn.TransformerEncoder` 搭了一个简短的 BERT。作为入门它很亲切，对 Adam 的介绍
# 也是对的；另外几处则很容易写错，值得学会怎样发现这类问题。按原文的代码，有几个名字没有定义，运行到那里 Python 自己就
# 会报错。其余几处就不那么容易看出来了。编码器没有*位置*信息，所以看到的只是一袋词。没有*填充掩码*，所以同一条文本只要
# 和更长的文本放在一批，读出来的结果就变了。损失函数拿到了标签，却没有与之对应的输出层（*输出头*），只好拿标签去和并不
# 代表任何标签的隐藏状态相比。*词嵌入*的公式写成了对查询、键、值一起做 softmax；其实词嵌入只是按词元编号从一张表里取出
# 的一行，查询、键和值属于注意力。Vaswani 等（2017）的注意力是这样计算的，其中 $Q$ 是查询，$K$ 是键，$V$ 是值，$d$ 是
# 一个头的宽度：
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V$$
#
# softmax 把词元之间的打分变成和为 1 的权重，然后才用这些权重去混合各个值。这样的错误怎样发现？光靠读代码不够：写错的
# 模型照样能训练，只是差一点。可靠的办法是*比对相等*：把同样的权重、同样的输入交给一个久经检验的实现（这里是
# `transformers` 的 BERT），看算出的数是否一样。先把公式和产品里的函数放在一起：

# %%
import math

import torch

from models.encoders.attention import attend

torch.manual_seed(0)
query, key, value = torch.randn(3, 2, 4, 10, 16, dtype=torch.float64)  # each (rows, heads, tokens, head width)
real = torch.arange(10) < torch.tensor([[10], [7]])  # (rows, tokens): the second row has three tokens of padding
pairs = (query @ key.transpose(-1, -2) / math.sqrt(16)).masked_fill(~real[:, None, None, :], -math.inf)
by_formula = pairs.softmax(dim=-1) @ value
difference = float((by_formula - attend(query, key, value, real[:, None, None, :])).abs().max())
print(f"attention: formula and product differ by {difference:.1e}")
assert difference < 1e-6

# %% [markdown] lang="en"
# Padding gets the score $-\infty$ before the softmax, so its weight is 0. Now the whole model: a random BERT of
# `transformers`, written to a folder and read by the product. Then we break the product's model on purpose, in the
# ways named above, and look at the same numbers.

# %% [markdown] lang="zh"
# 填充位置在 softmax 之前的打分是 $-\infty$，所以权重是 0。接着看整个模型：用 `transformers` 生成一个随机的 BERT，存进
# 文件夹，再由产品读入。然后按上面说的几处，故意把产品的模型弄坏，看同样的数会怎样。

# %%
import copy

from transformers import BertConfig, BertForMaskedLM

from models.pretraining.masked_lm import MaskedBatch, load_masked_model
from tools.course.output import figure, fresh_folder, scores, sized

work = fresh_folder("02_masked_pretraining")
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
reference = BertForMaskedLM(BertConfig(vocab_size=1000, max_position_embeddings=64, **sizes)).eval()
for parameter in reference.parameters():
    parameter.data += 0.1 * torch.randn_like(parameter)  # fresh weights are so small that all answers are alike
reference.save_pretrained(work / "reference")
ours = load_masked_model(work / "reference").double()
ids, mask = torch.randint(5, 1000, (2, 10)), real.long()
positions = mask.flatten().nonzero()[:, 0]
batch = MaskedBatch(ids, mask, positions, ids.flatten()[positions])
no_positions, no_mask = copy.deepcopy(ours), MaskedBatch(ids, torch.ones_like(mask), positions, batch.targets)
no_positions.encoder.embeddings.positions.weight.data.zero_()
with torch.no_grad():
    expected = reference.double()(ids, attention_mask=mask).logits.flatten(0, 1)[positions]
    answers = {"the product": ours(batch), "no positions": no_positions(batch), "no padding mask": ours(no_mask)}
differences = {name: float((logits - expected).abs().max()) for name, logits in answers.items()}
for name, difference in differences.items():
    print(f"{name}: largest difference from transformers {difference:.1e}")
assert differences["the product"] < 1e-6 < 1e-2 < min(differences["no positions"], differences["no padding mask"])

# %% [markdown] lang="en"
# The whole model agrees to all digits that matter; each missing part changes the answers visibly. Such a test takes a
# second, and it is the first one to write for a model of your own.
#
# ## The loss, written out
#
# At a hidden position the model gives a score $z_k$, a *logit*, to each of the $K$ tokens of the vocabulary. Softmax
# makes probabilities of them, and the *cross entropy* is the mean surprise at the true tokens $y_i$ over the set $M$
# of hidden positions:
#
# $$L = -\frac{1}{|M|} \sum_{i \in M} \log \frac{e^{z_{i, y_i}}}{\sum_{k=1}^{K} e^{z_{i, k}}}$$
#
# A model that knows nothing gives each token the probability $1/K$, so its loss is $\log K$. We take real texts, pack
# them into rows of 64 tokens, hide some tokens, and compute the loss twice.

# %% [markdown] lang="zh"
# 完整的模型与 `transformers` 一致；缺了任何一处，答案都明显改变。这样的测试一秒钟就能跑完，自己写模型时应当最先写它。
#
# ## 把损失写出来
#
# 在每个被遮住的位置，模型给词表里的 $K$ 个词元各打一个分 $z_k$，称为 *logit*。softmax 把它们变成概率；*交叉熵*就是在
# 所有被遮位置的集合 $M$ 上，对真实词元 $y_i$ 的平均“意外程度”：
#
# $$L = -\frac{1}{|M|} \sum_{i \in M} \log \frac{e^{z_{i, y_i}}}{\sum_{k=1}^{K} e^{z_{i, k}}}$$
#
# 什么都不懂的模型给每个词元的概率都是 $1/K$，损失就是 $\log K$。下面取真实文本，拼成每行 64 个词元，遮住一部分，把损
# 失算两遍。

# %%
from models.data.texts import read_texts
from models.pretraining.corpus import Packing, pack_corpus
from models.pretraining.masked_lm import new_masked_model
from models.pretraining.masking import MaskingConfig
from models.pretraining.objective import MaskedObjective
from models.pretraining.pretrain import PretrainConfig, Sources, TrainingConfig, pretrain, resolve_size
from models.pretraining.wordpiece import Vocabulary, train_wordpiece

texts = [row[0] for name in ("bbc-news", "film-reviews") for row in read_texts(f"builtin:{name}:train").rows]
corpus_file = work / "texts.txt"
corpus_file.write_text("\n\n".join(texts[:: sized(1, small=20)]), encoding="utf-8")
backend = train_wordpiece([corpus_file], sized(4000, small=1000), lowercase=True)
backend.save(str(work / "tokenizer.json"))
corpus = pack_corpus([corpus_file], [], work, Packing(length=64, hold_out=20), work / "store")
vocabulary = Vocabulary.of(backend)
objective = MaskedObjective(corpus.train, vocabulary, MaskingConfig(), seed=0)
model = new_masked_model(resolve_size("tiny", vocabulary, length=64), dropout=0.0, seed=0)
batch = objective.collate(range(16), epoch=0, device=torch.device("cpu"))
print("input: ", *(backend.id_to_token(int(i)) for i in batch.ids[0, :14]))
print("target:", *(backend.id_to_token(int(i)) for i in corpus.train[0, :14]))
logits = model(batch).detach().double()  # (hidden tokens, vocabulary)
by_hand = -(logits.gather(1, batch.targets[:, None])[:, 0] - logits.exp().sum(1).log()).mean()
product = float(objective.loss(model, batch)) / objective.weight(batch)
print(f"loss by hand {by_hand:.6f}, of the product {product:.6f}, log K {math.log(vocabulary.size):.6f}")
assert abs(product - by_hand) / by_hand < 1e-6

# %% [markdown] lang="en"
# Of the hidden tokens, 80 % became `[MASK]`, 10 % a random token and 10 % stayed: later there are no masks in the
# input, so the model must not rely on them.
#
# ## Adam, written out
#
# The gradient $g_t$ says how the loss changes with each weight. Adam (Kingma and Ba 2015) keeps for each weight a
# running mean $m$ of the gradient and $v$ of its square. Both begin at 0 and are therefore too small at first;
# dividing by $1 - \beta^t$ corrects this. The step is the ratio of the two, so it hardly depends on the size of the
# gradient. AdamW (Loshchilov and Hutter 2019) also lets the weights decay by the factor $1 - \eta \lambda$:
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2$$
#
# $$\hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}$$
#
# $$\theta_t = (1 - \eta \lambda)\, \theta_{t-1} - \eta \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}$$

# %% [markdown] lang="zh"
# 被选中的词元里，80 % 变成 `[MASK]`，10 % 换成随机词元，10 % 保持不变：以后的输入里没有遮盖符，模型不能依赖它。
#
# ## 把 Adam 写出来
#
# 梯度 $g_t$ 说明每个权重变化时损失怎样变化。Adam（Kingma 和 Ba，2015）为每个权重记住两个滑动平均：梯度的 $m$ 和梯度平
# 方的 $v$。两者都从 0 开始，所以起初偏小，除以 $1 - \beta^t$ 正好纠正。每步走的是两者之比，因此几乎不受梯度大小的影
# 响。AdamW（Loshchilov 和 Hutter，2019）还让权重每步乘以 $1 - \eta \lambda$，慢慢衰减：
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2$$
#
# $$\hat m_t = \frac{m_t}{1 - \beta_1^t}, \qquad \hat v_t = \frac{v_t}{1 - \beta_2^t}$$
#
# $$\theta_t = (1 - \eta \lambda)\, \theta_{t-1} - \eta \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}$$

# %%
from models.train.optimizer import make_optimizer

settings = TrainingConfig(learning_rate=1e-3, weight_decay=0.01, freeze_embeddings=False)
optimizer = make_optimizer(model, settings)
(beta1, beta2), epsilon = optimizer.defaults["betas"], optimizer.defaults["eps"]
weights = {name: p.detach().double() for name, p in model.named_parameters()}
mean, square = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
for step in range(1, 6):
    (objective.loss(model, batch) / objective.weight(batch)).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.double()
        mean[name] = beta1 * mean[name] + (1 - beta1) * gradient
        square[name] = beta2 * square[name] + (1 - beta2) * gradient**2
        ratio = mean[name] / (1 - beta1**step) / ((square[name] / (1 - beta2**step)).sqrt() + epsilon)
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0  # biases and norms have none
        weights[name] = (1 - 1e-3 * decay) * weights[name] - 1e-3 * ratio
    optimizer.step()
    optimizer.zero_grad()
worst = max(float((weights[name] - p).abs().max()) for name, p in model.named_parameters())
print(f"after 5 steps, {sum(w.numel() for w in weights.values()):,} weights differ by {worst:.1e} at most")
assert worst < 1e-6

# %% [markdown] lang="en"
# ## Pretrain
#
# Now the product does all of it. The model is tiny (2 layers, 128 wide), so that minutes will do; a real BERT
# sees many thousand times as many tokens. We compare it with a guess that only knows how frequent each token is.

# %% [markdown] lang="zh"
# ## 开始预训练
#
# 现在把这些全部交给产品。模型很小（2 层，宽 128），几分钟就能训练完；真正的 BERT 看到的词元要多出好几万倍。作为对照，
# 再算一个只知道词元频率的猜法。

# %%
import json

import numpy as np

steps = sized(400, small=20)
config = PretrainConfig(
    packing=Packing(length=64, hold_out=20), vocabulary=vocabulary.size, dropout=0.0, held_out_rows=256,
    training=TrainingConfig(
        steps=steps, batch_size=32, learning_rate=2e-3, warmup=0.06, freeze_embeddings=False,
        evaluate_every=steps // 10, precision="fp32",
    ),
)  # fmt: skip
result = pretrain(Sources(corpus=(corpus_file,), size="tiny", tokenizer=str(work)), config, work / "store")
report = json.loads((result.folder.path / "report.json").read_text())
curve = [(e["step"], e["metrics"]["held_out_loss"]) for e in report["details"]["history"]["evaluations"]]
counts = np.bincount(np.asarray(corpus.train).ravel(), minlength=vocabulary.size) + 1.0
counts[vocabulary.special] = 0
held_out = MaskedObjective(corpus.held_out[:256], vocabulary, MaskingConfig(), seed=0)
targets = held_out.collate(range(len(held_out.rows)), 0, torch.device("cpu")).targets.numpy()
guess = -float(np.log(counts / counts.sum())[targets].mean())
by_frequency = float((targets == counts.argmax()).mean())
print(f"frequency: loss {guess:.2f}, {by_frequency:.1%} right")
loss, accuracy = report["held_out_loss"], report["masked_accuracy"]
print(f"model: loss {loss:.2f}, {accuracy:.1%} right, after {report['tokens_seen']:,} tokens")


# %%
def draw(axes):
    """Held-out loss by step, and the two guesses."""
    axes.axhline(math.log(vocabulary.size), linestyle=":", color="#8a63d2", label="knows nothing: log K")
    axes.axhline(guess, linestyle="--", color="#e08a1e", label="knows the frequencies")
    axes.plot(*zip((0, report["held_out_loss_before"]), *curve, strict=True), "o-", color="#3d7dd6", label="model")
    axes.set(xlabel="step", ylabel="loss on held-out texts, nats a token")


figure("The model first learns how frequent the tokens are, and then more.", draw)

# %% [markdown] lang="en"
# The curve has a story: most of the fall comes early, and it leads to about the loss of the frequencies. From there
# on the model must use the neighbours of a gap, and that takes many more steps. What does it expect at a gap?

# %% [markdown] lang="zh"
# 曲线讲了一个故事：损失一开始降得最快，很快就到了“只知道频率”的水平附近。要再往下降，模型就得利用空格旁边的词，这需
# 要多得多的步数。它认为空格处该填什么？

# %%
from models.tokenizer import Tokenizer

trained, tokenizer = load_masked_model(result.folder.path), Tokenizer.open(result.folder.path, max_tokens=64)
for sentence in ("the prime minister said that he would not resign", "one of the best films of the year"):
    row = tokenizer.batch([(sentence,)])
    ids = torch.from_numpy(row.ids)
    for place in (2, 5):
        hidden = ids.clone()
        hidden[0, place] = vocabulary.mask
        asked = MaskedBatch(hidden, torch.ones_like(ids), torch.tensor([place]), ids[0, place : place + 1])
        best = trained(asked)[0].topk(4).indices.tolist()
        print(tokenizer.decode(hidden[0, 1:-1].tolist()), "→", *tokenizer.token_strings(best))

# %%
scores(
    f"{accuracy:.1%} of hidden tokens guessed ({by_frequency:.1%} by frequency)",
    accuracy=accuracy, by_frequency=by_frequency, loss=loss, guess=guess,
)  # fmt: skip

# %% [markdown] lang="en"
# The model guesses {{accuracy:.1%}} of the hidden tokens, the frequency guess {{by_frequency:.1%}}; its loss is
# {{loss:.2f}} instead of {{guess:.2f}}. So it has learned more than frequencies. It is still little, as the guesses
# at the gaps above show; [the measured trainings](../results/training.md) show what more texts and hours bring. From
# the next chapter on we use MiniLM, whose pretraining others have paid for.
#
# ## Exercises
#
# 1. Without positions a BERT cannot tell *dog bites man* from *man bites dog*. Show it: with the position table at
#    zero, reversing the tokens only reverses the answers.
# 2. Leave out the bias correction of Adam. How much longer is the first step than $\eta$, for $\beta_1 = 0.9$ and
#    $\beta_2 = 0.999$?
# 3. What is the loss of a model that gives the true token the logit $c$ and all others 0? From which $c$ on is it
#    below 0.1, for $K = 4000$?
#
# The answers are tests:
# [`tests/docs/learn/test_02_masked_pretraining.py`](../../tests/docs/learn/test_02_masked_pretraining.py). Next:
# [fine-tuning](03_finetuning.py).

# %% [markdown] lang="zh"
# 模型猜对了 {{accuracy:.1%}} 的被遮词元，按频率猜只有 {{by_frequency:.1%}}；损失是 {{loss:.2f}}，按频率猜是
# {{guess:.2f}}。可见它学到的不只是频率。不过还很有限，看上面它往空格里填的词就知道；更多的文本和时间能换来什么，
# 见[实测的训练结果](../results/training.md)。从下一章起我们用 MiniLM，它的预训练已经有人替我们做好了。
#
# ## 练习
#
# 1. 没有位置信息的 BERT 分不清“狗咬人”和“人咬狗”。请证明：把位置表清零后，颠倒词元的顺序，答案只是跟着颠倒。
# 2. 去掉 Adam 的偏差修正，取 $\beta_1 = 0.9$、$\beta_2 = 0.999$，第一步会比 $\eta$ 长多少倍？
# 3. 如果模型给真实词元的 logit 是 $c$，其余都是 0，损失是多少？$K = 4000$ 时，$c$ 从多大起损失低于 0.1？
#
# 答案就是测
# 试：[`tests/docs/learn/test_02_masked_pretraining.py`](../../tests/docs/learn/test_02_masked_pretraining.py)。下一
# 章：[微调](03_finetuning.py)。
