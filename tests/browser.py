"""Browser: headless Chromium over its debugging pipe, for tests of a page as a person uses it."""

import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


class Page:
    """One tab. Messages are JSON that ends with a zero byte (the protocol of Chrome DevTools)."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._ids, self._rest = to_browser, from_browser, count(1), b""
        self.session = None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        """Call a method of the protocol and return its result; events that arrive meanwhile are kept."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, script: str):
        """Return the value of a JavaScript expression; a promise is awaited."""
        told = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text that a person sees in the first element that matches."""
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def wait(self, condition: str, seconds: float = 20):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}; page: {self.text('body')[:2000]}"
            time.sleep(0.02)

    def open(self, url: str) -> None:
        """Go to a page and wait until its script has run."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def type(self, element: str, text: str) -> None:
        """Replace the text of a field."""
        self.run(f"document.getElementById({json.dumps(element)}).select()")
        self.call("Input.insertText", text=text)

    def press_enter(self, ctrl: bool = False) -> None:
        """Press and release Enter, with or without Ctrl."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2 if ctrl else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **({} if ctrl else {"text": "\r"}), **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)


@contextmanager
def browser(folder):
    """Start Chromium with a profile in `folder`, and yield a page of it."""
    (ours_in, theirs_out), (theirs_in, ours_out) = os.pipe(), os.pipe()
    # Chromium reads from descriptor 3 and writes to 4; bash copies ours first, because one of them may be 3 or 4
    command = f'exec {{r}}<&{theirs_in} {{w}}>&{theirs_out}; exec "$@" 3<&$r 4>&$w'
    arguments = ["bash", "-c", command, "bash", CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(arguments, pass_fds=(theirs_in, theirs_out), stderr=log, stdout=log)
    for theirs in (theirs_in, theirs_out):
        os.close(theirs)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.close(ours_out)  # the browser ends with its pipe
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
