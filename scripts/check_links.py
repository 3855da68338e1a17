"""Every link, image and anchor of a built site leads somewhere: `python scripts/check_links.py site`.

Only what lies in the folder is followed; addresses on other machines are listed with --outside, and not asked. Ends
with 1 and a line per broken link.
"""

from __future__ import annotations

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The targets of a page's links and images, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for every tag."""
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.append(value)
            if (name == "id" or (tag == "a" and name == "name")) and value:
                self.anchors.add(value)


def broken(site: Path) -> list[str]:
    """A line per link that leads nowhere: the page, the target and why."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    lines: list[str] = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            why = _why(path, target, pages, site.resolve())
            if why:
                lines.append(f"{path.relative_to(site.resolve())}: {target}: {why}")
    return lines


def outside(site: Path) -> list[str]:
    """The addresses on other machines that pages link to."""
    targets = {t for path in site.rglob("*.html") for t in Page(path.read_text("utf-8")).targets}
    return sorted(t for t in targets if urlsplit(t).scheme in ("http", "https"))


def _why(path: Path, target: str, pages: dict[Path, Page], site: Path) -> str:
    """Why a target leads nowhere; "" where it leads somewhere, or to another machine."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return ""
    if parts.path.startswith("/"):  # only a 404 page, which knows no folder of its own, may ask for the root
        return "" if path == site / "404.html" else "an absolute path"
    place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    place = place / "index.html" if place.is_dir() else place
    if not place.is_file():
        return "no such file"
    if place in pages and unquote(parts.fragment) not in pages[place].anchors:
        return "no such anchor"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--outside", action="store_true", help="list the addresses on other machines")
    args = parser.parse_args()
    if not list(args.site.rglob("*.html")):
        print(f"{args.site} has no pages", file=sys.stderr)
        return 2
    if args.outside:
        print("\n".join(outside(args.site)))
    lines = broken(args.site)
    print("\n".join(lines) if lines else f"{len(list(args.site.rglob('*.html')))} pages, no broken link")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
