#!/usr/bin/env python3
"""Pictures of a page as people see it: wide and light, wide and dark, on a phone (light and dark).

    scripts/screenshots.py http://127.0.0.1:9777/ docs/screenshots                a running daemon's page
    scripts/screenshots.py 'http://127.0.0.1:9090/graph?…' OUT --name loss --views light      any other page

Writes NAME-light.png, NAME-dark.png, NAME-phone.png, NAME-phone-dark.png. Needs chromium and chromedriver
(Debian: `apt-get install chromium chromium-driver`); of Python, only what comes with it.
"""
import argparse, base64, json, pathlib, re, shutil, subprocess, sys, tempfile, time, urllib.error, urllib.request

VIEWS = {  # name: (width in px, height in px, scale, scheme)
    "light": (1280, 900, 1, "light"),
    "dark": (1280, 900, 1, "dark"),
    "phone": (360, 780, 2, "light"),
    "phone-dark": (360, 780, 2, "dark"),
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
LONGEST_PX = 6000


def ask(base, path, body=None, method=None):
    """One WebDriver command; returns its value."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        sys.exit(f"{path}: {json.load(error)['value']['message']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--name", default="page", help="begin of the files' names [page]")
    parser.add_argument("--views", default=",".join(VIEWS), help="which of " + ", ".join(VIEWS))
    parser.add_argument("--wait", type=float, default=4, help="seconds between opening and picture [4]")
    parser.add_argument("--top", action="store_true", help="only what fits the window, not the whole page")
    args = parser.parse_args()
    views = args.views.split(",")
    if unknown := [view for view in views if view not in VIEWS]:
        parser.error(f"no view {unknown[0]!r}; there are {', '.join(VIEWS)}")
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        sys.exit("this needs chromium and chromedriver: apt-get install chromium chromium-driver")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        session = None
        try:
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    break
            else:
                sys.exit("chromedriver did not start")
            base = f"http://127.0.0.1:{found[1]}"
            options = {"binary": chromium, "args": FLAGS + [f"--user-data-dir={profile}"]}
            wish = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
            session = f"/session/{ask(base, '/session', wish)['sessionId']}"
            cdp = lambda command, **params: ask(base, session + "/goog/cdp/execute", {"cmd": command, "params": params})
            for view in views:
                width, height, scale, scheme = VIEWS[view]
                size = {"width": width, "deviceScaleFactor": scale, "mobile": width < 600}
                cdp("Emulation.setDeviceMetricsOverride", height=height, **size)
                cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                ask(base, session + "/url", {"url": args.url})
                time.sleep(args.wait)
                if not args.top:
                    whole = cdp("Runtime.evaluate", expression="document.documentElement.scrollHeight")["result"]["value"]
                    cdp("Emulation.setDeviceMetricsOverride", height=min(LONGEST_PX, max(height, whole)), **size)
                    time.sleep(0.7)
                file = args.out / f"{args.name}-{view}.png"
                file.write_bytes(base64.b64decode(cdp("Page.captureScreenshot", format="png")["data"]))
                print(file)
        finally:
            if session:
                ask(base, session, method="DELETE")
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
