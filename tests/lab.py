"""A real JupyterLab in a real browser, for tests: a server of its own and a page in Debian's Chromium."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

TOKEN = secrets.token_hex(8)
START_S, RUN_S = 60, 180  # generous: a machine may be busy
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def why_not():
    """Why no browser test can run here, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "the Python package playwright is not installed (pip install -e .[dev])"
    return None if shutil.which("chromium") else "chromium is not installed (Debian: apt-get install chromium)"


@contextmanager
def lab_server(notebooks, private):
    """Serve a folder of notebooks at 127.0.0.1, with settings in the folder `private`; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ)
    for name in ("CONFIG", "RUNTIME", "DATA"):
        environment[f"JUPYTER_{name}_DIR"] = str(private / name.lower())
    for name in ("WORKSPACES", "SETTINGS"):
        environment[f"JUPYTERLAB_{name}_DIR"] = str(private / name.lower())
    write_settings(private)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={notebooks}"]
    with (private / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=notebooks)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, server, private / "server.log")
            yield address
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()


def write_settings(private):
    """Have JupyterLab ask nobody for news."""
    path = private / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))


@contextmanager
def browser():
    """Debian's Chromium under Playwright; its user-data folder is a fresh one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def opened(chromium, address, notebook, *, width=1280, height=900):
    """A notebook in JupyterLab, its kernel idle; yields the page, on which errors are collected as `page.troubles`."""
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(30_000)
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    try:
        page.goto(f"{address}/lab/tree/{notebook}?token={TOKEN}&reset")
        page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.content?.widgets?.length")
        page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
        yield page
    finally:
        page.evaluate(f"async () => {{ await {SESSION}?.shutdown() }}")
        page.close()


SESSION = "window.jupyterapp.shell.currentWidget.sessionContext"
KERNEL = f"{SESSION}.session?.kernel"


def run_all(page):
    """Run all cells of the notebook that is open and wait until the last is done; returns the cells as they are."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    deadline = time.monotonic() + RUN_S
    while time.monotonic() < deadline:
        cells = page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.toJSON().cells")
        code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        failed = any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
        idle = page.evaluate(f"() => {KERNEL}.status") == "idle"
        if failed or (idle and all(cell["execution_count"] for cell in code)):
            return code
        time.sleep(0.3)
    raise TimeoutError(f"the notebook was not done after {RUN_S} s")


def ask_kernel(page, expression):
    """What an expression of the notebook's kernel is worth; it must be plain JSON."""
    return page.evaluate(
        f"""async (code) => {{
            const request = {{ code: "", user_expressions: {{ asked: code }}, store_history: false }};
            const future = {KERNEL}.requestExecute(request);
            const reply = (await future.done).content.user_expressions.asked;
            if (reply.status !== "ok") throw new Error(reply.evalue);
            return JSON.parse(eval(reply.data["text/plain"]));
        }}""",
        f"__import__('json').dumps({expression})",
    )


def tell_kernel(page, code):
    """Run code in the notebook's kernel, outside its cells."""
    page.evaluate(
        f"""async (code) => {{
            const reply = await {KERNEL}.requestExecute({{ code, store_history: false }}).done;
            if (reply.content.status !== "ok") throw new Error(reply.content.evalue);
        }}""",
        code,
    )


def _wait_for(address, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
