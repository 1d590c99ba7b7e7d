"""`slimfront watch`: a run while it runs, from any machine that reads its folder."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from pruning.errors import UserError
from search.config import Parser

if TYPE_CHECKING:
    from rich.console import Console

    from search.report import Watcher


def run(argv: Sequence[str], prog: str) -> None:
    """Show the run until it has ended, once, or as a page that refreshes itself."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} RUN [--every 5] [--once] [--json] [--serve PORT]",
        description=(
            "Watch a search while it runs: frontier, running trials, what was stopped and why, "
            "failures and the time left. Reads RUN only, so it works from another machine and on "
            "an object store."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="folder or URI of a search (its --out)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--json", action="store_true", help="once, as JSON")
    parser.add_argument(
        "--serve",
        type=int,
        metavar="PORT",
        help="serve a page that refreshes itself on this port of this machine (0: any free one)",
    )
    found = parser.read(argv)
    if found["every"] <= 0:
        raise UserError(f"--every {found['every']:g}: must be above 0 seconds, as in 5")
    from rich.console import Console
    from rich.live import Live as Display

    from search.report import Watcher, panel

    watcher = Watcher(found["run"])
    view, console = watcher.look(), Console()
    if found["json"]:
        print(json.dumps(view.to_json(), indent=1))
    elif found["serve"] is not None:
        serve(watcher, found["serve"], found["every"], console)
    elif found["once"] or view.over:
        console.print(panel(view))
    else:
        with Display(console=console, auto_refresh=False) as display:
            while True:
                display.update(panel(view), refresh=True)
                if view.over:
                    return
                time.sleep(found["every"])
                view = watcher.look()


def serve(watcher: Watcher, port: int, every: float, console: Console) -> None:
    """Serve the run as a page on this machine's own address, until interrupted."""
    from search.report import live_page

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                body, code = live_page(watcher.look(), every), 200
            except UserError as error:
                body, code = f"<p>{html.escape(str(error))}</p>", 404
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: Any) -> None:
            """Nothing: the terminal is for what matters."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except OSError as error:
        raise UserError(f"--serve {port}: {error.strerror}; choose another port") from None
    console.print(f"http://127.0.0.1:{server.server_port} shows {watcher.place}; Ctrl-C ends it")
    with server:
        server.serve_forever()
