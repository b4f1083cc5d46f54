"""A headless Chromium driven over its DevTools pipe: no driver, no port, nothing to install but the browser itself."""
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page: `open` it at a width, `evaluate` JavaScript in it, take a `screenshot` (PNG bytes)."""

    def __init__(self, process, read, write):
        self.process, self.read, self.write, self.count, self.session = process, read, write, 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **params):
        """Send a DevTools command and wait for its answer."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self.receive())
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def receive(self):
        text = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            text += byte
        return bytes(text)

    def open(self, url, width, height=900, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url="about:blank")  # a new #fragment alone would not load the page again
        self.call("Page.navigate", url=url)
        self.wait("location.href != 'about:blank' && document.readyState == 'complete'")

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def wait(self, condition, seconds=30):
        """Wait until a JavaScript condition holds."""
        deadline = time.monotonic() + seconds
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.1)

    def _holds(self, condition):
        try:
            return self.evaluate(condition)
        except RuntimeError as error:  # asked between two pages
            if "navigated" not in str(error):
                raise
            return False

    def screenshot(self, whole=True):
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"])


@contextlib.contextmanager
def browser():
    """A running browser with a profile of its own; it is gone afterwards."""
    read_theirs, write = os.pipe()
    read, write_theirs = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def pipes():  # Chromium reads commands from file 3 and answers on file 4; away from both, first
            theirs = os.dup(read_theirs), os.dup(write_theirs)
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
        command = [CHROMIUM, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read_theirs)
        os.close(write_theirs)
        stream = os.fdopen(read, "rb")
        try:
            yield Browser(process, stream, write)
        finally:
            os.close(write)
            process.terminate()
            process.wait(20)
            stream.close()
