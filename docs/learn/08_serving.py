# %% [markdown] lang="en"
# # ONNX, and serving over HTTP
#
# What is in an ONNX file, how a model becomes a folder that can be served without torch, and how a server is started,
# asked and stopped.
#
# A model in torch is a Python program. To serve it one wants the opposite: a file that says what to compute, and a
# small, fast program that does it. *ONNX* is such a file format: a *graph* whose nodes are operators (matrix product,
# softmax, …) and whose edges are tensors, together with the weights. *ONNX Runtime* executes it.
#
# `prunella quantize` takes a classifier and writes a *bundle*: a folder with the graphs in fp32 and int8, the
# tokenizer, the meaning of the outputs, and a few texts with their expected answers, with which a server checks
# itself at start. This is the int8 of [chapter 7](07_int8.py) for the whole model, with all checks.

# %% [markdown] lang="zh"
# # ONNX，以及通过 HTTP 提供服务
#
# ONNX 文件里有什么，模型怎样变成一个不需要 torch 就能提供服务的文件夹，以及怎样启动、询问和停止一个服务器。
#
# torch 里的模型是一段 Python 程序。要提供服务，需要的正好相反：一个说明“算什么”的文件，和一个又小又快、照着去算的程
# 序。*ONNX* 就是这样的文件格式：一张*计算图*，节点是算子（矩阵乘法、softmax……），边是张量，再加上权重。*ONNX
# Runtime* 负责执行它。
#
# `prunella quantize` 把一个分类器写成一个 *bundle*：这个文件夹里有 fp32 和 int8 两种计算图、分词器、输出的含义，还有
# 几条文本及其应有的回答，服务器启动时用它们自检。这就是[第 7 章](07_int8.py)的 int8，只是用于整个模型，并做完所有检
# 查。

# %%
import numpy as np

from models.classifier_folder import open_classifier
from models.finetuning.predict import predict
from prunella import quantize
from tools.course.film_classifier import STORE, film_classifier
from tools.course.output import figure, fresh_folder, scores, sized

film = film_classifier()
model, task, tokenizer = open_classifier(film.folder)
bundle = fresh_folder("08_serving") / "bundle"
rows = {"calibration": "builtin:film-reviews:train", "data": "builtin:film-reviews:validation"}
made = quantize(
    film.path, **rows, recipe="static", calibration_rows=sized(256, small=16), max_loss=sized(1.0, small=100.0),
    store=STORE, out=bundle,
)  # fmt: skip
for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
    print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(bundle)}")

# %% [markdown] lang="en"
# ## Inside the graph
#
# The fp32 graph does not have dozens of small operators for each layer, but a few large ones. `Attention` computes
# queries, keys, values, softmax and the mix of values in one step, and `Gelu` and `LayerNormalization` are one
# operator each. Such *fused* operators never write what lies between to memory, which is where much of the time of a
# small model goes. The int8 graph has the operators of chapter 7: `QuantizeLinear` computes $q$ from $x$, and
# `MatMulIntegerToFloat` multiplies whole numbers and returns to real ones.

# %% [markdown] lang="zh"
# ## 计算图里面
#
# fp32 的计算图，每层不是几十个小算子，而是几个大算子。`Attention` 一步算完查询、键、值、softmax 以及值的混合；`Gelu`
# 和 `LayerNormalization` 也各是一个算子。这种*融合*算子不把中间结果写进内存，而小模型的时间有很大一部分正是花在那
# 里。int8 的计算图里是第 7 章的那些算子：`QuantizeLinear` 由 $x$ 算出 $q$，`MatMulIntegerToFloat` 做整数乘法，再变回
# 实数。

# %%
from collections import Counter

import onnx

graphs = {kind: onnx.load(bundle / "onnx" / f"cpu-{kind}.onnx") for kind in ("fp32", "int8")}
for kind, graph in graphs.items():
    operators = Counter(node.op_type for node in graph.graph.node)
    print(kind, *(f"{number} {name}" for name, number in operators.most_common(7)))

# %% [markdown] lang="en"
# A conversion is only worth something if it is checked. The logits of torch and of the fp32 graph must agree to 1e-4;
# `prunella` refuses to deliver a bundle for which they do not.

# %% [markdown] lang="zh"
# 转换只有经过核对才算数。torch 与 fp32 计算图的 logit 必须在 1e-4 之内一致；如果不一致，`prunella` 拒绝交付这个
# bundle。

# %%
from service.model.engine import run_session
from service.model.session import open_session

texts = film.test.rows[: sized(200, small=10)]
encoded = tokenizer.encode(texts)
batch = tokenizer.pad(encoded[:8])
answers = run_session(open_session(bundle / "onnx" / "cpu-fp32.onnx"), batch)
difference = np.abs(answers - predict(model, encoded[:8], tokenizer)).max()
print(f"largest difference between the logits of torch and of the fp32 graph: {difference:.1e}")
assert difference < 1e-4

# %% [markdown] lang="en"
# ## A server
#
# Now the bundle is served, as a process of its own, exactly as in production: `prunella serve bundle`. It needs
# neither torch nor the training code. When it is ready, it prints one line of JSON; we wait for that line, and do not
# guess with a pause.
#
# *HTTP* is plain: the client sends a request with a *body*, here a JSON document, and gets a *status* and an answer.
# 200 means that all is well, 400 that the request is wrong, 422 that a text in it cannot be answered, 429 that the
# server is overloaded and says when to come back. The last request below has an empty text on purpose: a good service
# answers wrong requests with a sentence that helps.

# %% [markdown] lang="zh"
# ## 一个服务器
#
# 现在让 bundle 作为一个独立进程提供服务，与生产环境完全一样：`prunella serve bundle`。它既不需要 torch，也不需要训练
# 代码。准备好之后，它会打印一行 JSON；我们就等这一行，而不是随便睡几秒去猜。
#
# *HTTP* 很简单：客户端发送一个带*正文*（这里是一个 JSON 文档）的请求，得到一个*状态码*和一个回答。200 表示一切正
# 常，400 表示请求有错，422 表示其中有无法回答的文本，429 表示服务器过载，并告诉你什么时候再来。下面最后一个请求故意发
# 送空文本：好的服务会用一句有帮助的话来回答错误的请求。

# %%
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [sys.executable, "-m", "prunella", "serve", str(bundle), "--port", str(port)]
log = (bundle.parent / "server.log").open("w")
server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
started = json.loads(server.stdout.readline())  # its line of JSON says that it is ready
print("$ prunella serve bundle --port PORT →", f"ready after {started['seconds']} s")


def ask(body):
    """Send a JSON document, and return the status and the answer."""
    request = urllib.request.Request(
        f"{started['url']}/v1/classify", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


for body in ({"text": "A quiet, lovely film."}, {"texts": ["Dull.", "I laughed all the way."]}, {"text": ""}):
    status, answer = ask(body)
    print(json.dumps(body), "→", status, json.dumps(answer)[:300])

# %% [markdown] lang="en"
# ## What does it cost?
#
# We time three ways to answer one text after the other: torch in fp32; the int8 graph in this process (`Classifier`,
# the same code without a server); and int8 over HTTP. Look at the *median* (p50) and at the 95th *percentile* (p95),
# not at the mean: a single slow answer spoils a mean, and users notice the slow ones.

# %% [markdown] lang="zh"
# ## 要花多少时间？
#
# 我们给三种方式计时，每次回答一条文本：fp32 的 torch；在本进程中运行的 int8 计算图（`Classifier`，同样的代码，只是没
# 有服务器）；以及经过 HTTP 的 int8。要看*中位数*（p50）和第 95 *百分位数*（p95），不要看平均值：一次很慢的回答就能毁
# 掉平均值，而用户恰恰会注意到慢的那几次。

# %%
import time

from prunella import Classifier

classifier = Classifier(bundle)


def timed(answer):
    """Return the milliseconds that each text takes; the first texts are a warm-up."""
    times = []
    for text in [row[0] for row in texts[:10]] + [row[0] for row in texts]:
        begun = time.perf_counter()
        answer(text)
        times.append(1000 * (time.perf_counter() - begun))
    return np.array(times[-len(texts) :])


ways = {
    "torch, fp32": timed(lambda text: predict(model, tokenizer.encode([(text,)]), tokenizer)),
    "int8 in this process": timed(classifier),
    "int8 over HTTP": timed(lambda text: ask({"text": text})),
}
over_http = ask({"text": texts[0][0]})[1]
print("over HTTP:", json.dumps(over_http)[:120], "| in this process:", classifier(texts[0][0]).label)
for name, times in ways.items():
    print(f"{name:22} p50 {np.median(times):6.2f} ms, p95 {np.quantile(times, 0.95):6.2f} ms")


# %%
def draw(axes):
    """Share of the requests that are answered within a time."""
    for (name, times), color in zip(ways.items(), ("#e08a1e", "#2f9e6e", "#d6453d"), strict=True):
        axes.step(np.sort(times), np.linspace(0, 100, len(times)), color=color, label=name)
    axes.set(xscale="log", xlabel="milliseconds (log)", ylabel="% of the texts answered by then")


figure("How long an answer takes: with torch, with int8 in the same process, and with int8 over HTTP.", draw)

# %% [markdown] lang="en"
# Int8 in this process takes {{process_ms:.1f}} ms for a text, torch {{torch_ms:.1f}} ms. HTTP adds what is between
# {{process_ms:.1f}} and {{http_ms:.1f}} ms: parsing, a queue, and a new connection for each request, which a real
# client would keep open. Times depend on the machine and on what else runs there; the ones on this page belong to the
# processor at the top.
#
# ## Stopping
#
# A server is not killed but asked to end: the signal SIGTERM. It stops taking requests, answers those that it has,
# and ends with exit code 0. An orchestrator such as Kubernetes does the same at each update, and no request is lost.

# %% [markdown] lang="zh"
# int8 在本进程中回答一条文本要 {{process_ms:.1f}} 毫秒，torch 要 {{torch_ms:.1f}} 毫秒。HTTP 带来的是
# {{process_ms:.1f}} 与 {{http_ms:.1f}} 毫秒之间的差：解析、排队，还有每次请求都新建连接；真正的客户端会保持连接。时间
# 取决于机器，以及机器上还在运行什么；本页的数字属于页首写明的处理器。
#
# ## 停止
#
# 停止服务器时不是强行杀掉它，而是用信号 SIGTERM 请它结束。它不再接收新请求，答完手里的请求，然后以退出码 0 结束。
# Kubernetes 这样的编排系统在每次更新时也是这样做的，一个请求都不会丢。

# %%
server.send_signal(signal.SIGTERM)
print("exit code of the server:", server.wait(timeout=60))
log.close()
medians = {name: float(np.median(times)) for name, times in ways.items()}
accuracy = made.report["accuracy"]
scores(
    f"p50 {medians['int8 over HTTP']:.1f} ms over HTTP, torch alone {medians['torch, fp32']:.1f} ms",
    torch_ms=medians["torch, fp32"],
    process_ms=medians["int8 in this process"],
    http_ms=medians["int8 over HTTP"],
    ready=started["seconds"],
    difference=float(difference),
    accuracy=accuracy,
)

# %% [markdown] lang="en"
# From a text to an answer over HTTP: that was the course. What is left out here is in the manual: many clients at
# once, keys, metrics, a new model without a pause ([serving](../serving.md)), containers and clusters
# ([deploying](../deploy.md)), and the search for the fastest model within an allowed loss
# ([compression](../compression.md)). The [last chapter](09_chinese.py) does all of it once more, in Chinese.
#
# ## Exercises
#
# 1. Ask a service for two texts in one request and in two requests. Are the scores exactly the same, and why must
#    they be?
# 2. How many scores does `Classifier` return for a text, and what is their sum?
# 3. Change one byte of the weights in a copy of a bundle. What happens when it is opened?
#
# The answers are tests: [`tests/docs/learn/test_08_serving.py`](../../tests/docs/learn/test_08_serving.py).

# %% [markdown] lang="zh"
# 从一条文本到一个 HTTP 回答，这就是整个课程。这里没讲的都在手册里：同时有许多客户端、密钥、指标、不停机换模型
# （[服务](../serving.md)），容器与集群（[部署](../deploy.md)），以及在允许的损失之内寻找最快的模型
# （[压缩](../compression.md)）。[最后一章](09_chinese.py)用中文把这一切再做一遍。
#
# ## 练习
#
# 1. 两条文本，放在一个请求里问，和分成两个请求问，得分是否完全相同？为什么必须相同？
# 2. `Classifier` 对一条文本返回几个得分？它们的和是多少？
# 3. 复制一个 bundle，改动权重里的一个字节。打开它时会发生什么？
#
# 答案就是测试：[`tests/docs/learn/test_08_serving.py`](../../tests/docs/learn/test_08_serving.py)。
