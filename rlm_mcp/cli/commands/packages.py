"""`packages`: lists, adds and removes packages of the sandbox, and bakes the image that holds them."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlm_mcp.cli.commands.output import print_json
from rlm_mcp.cli.commands.registry import ANSWERED, CommandHandler, Commands, settings_from
from rlm_mcp.redact import escape_controls
from rlm_mcp.settings import Settings

if TYPE_CHECKING:
    from rlm_mcp.packages.library import PackageImage, PackageLibrary


def add_commands(commands: Commands) -> None:
    """Registers `packages` and its commands."""
    group = commands.group("packages", _with_library(list_packages), "list, add and remove packages of the sandbox")
    group.add("list", _with_library(list_packages), "list the packages that code in the sandbox can import")
    parser = group.add("add", _with_library(add), "add packages, and what they need, and bake an image with them")
    parser.add_argument("package", nargs="+", help="NAME, NAME==VERSION or the path of a wheel")
    parser.add_argument(
        "--find-links",
        action="append",
        default=[],
        metavar="PLACE",
        help="a folder or address with wheels, instead of Pyodide's file server; may be given several times",
    )
    parser = group.add("remove", _with_library(remove), "remove a package, and bake an image without it")
    parser.add_argument("package", help="the name of a package that was added")
    group.add("bake", _with_library(bake), "bake the image of the added packages again")


def _with_library(
    handler: Callable[[argparse.Namespace, "PackageLibrary", Settings], int],
) -> CommandHandler:
    def opened(options: argparse.Namespace) -> int:
        from rlm_mcp.packages.library import PackageLibrary

        settings = settings_from(options)
        return handler(options, PackageLibrary(settings.data_dir), settings)

    return opened


def list_packages(options: argparse.Namespace, library: "PackageLibrary", settings: Settings) -> int:
    """Prints the packages of the image in use, and the other images."""
    chosen = library.choose(settings.packages)
    if options.json:
        print_json(
            {"added": list(library.added()), "image": _facts(chosen), "images": [_facts(i) for i in library.images()]}
        )
        return ANSWERED
    if chosen is None:
        print("none: code in the sandbox has the standard library; `rlm-mcp packages add NAME` adds packages")
        return ANSWERED
    for package in chosen.packages:
        note = "  (without its compiled part: slower)" if package.split()[0] in chosen.pure_only else ""
        print(escape_controls(package + note))
    print(f"image {chosen.sha256[:12]} in {escape_controls(str(chosen.folder))}", file=sys.stderr)
    return ANSWERED


def add(options: argparse.Namespace, library: "PackageLibrary", settings: Settings) -> int:
    """Adds packages."""
    image = library.add(
        options.package, cache_dir=settings.cache_dir, find_links=options.find_links, report=_reporter(options)
    )
    return _print_image(options, image)


def remove(options: argparse.Namespace, library: "PackageLibrary", settings: Settings) -> int:
    """Removes a package."""
    return _print_image(
        options, library.remove(options.package, cache_dir=settings.cache_dir, report=_reporter(options))
    )


def bake(options: argparse.Namespace, library: "PackageLibrary", settings: Settings) -> int:
    """Bakes the image again, with the newest versions that were asked for."""
    if not library.added():
        print("nothing was added: `rlm-mcp packages add NAME`", file=sys.stderr)
        return ANSWERED
    return _print_image(options, library.bake(library.added(), cache_dir=settings.cache_dir, report=_reporter(options)))


def _reporter(options: argparse.Namespace) -> Callable[[str], None]:
    def print_progress(text: str) -> None:
        if not options.quiet:
            print(f"rlm-mcp: {escape_controls(text)}", file=sys.stderr, flush=True)

    return print_progress


def _print_image(options: argparse.Namespace, image: "PackageImage | None") -> int:
    if options.json:
        print_json(_facts(image))
    elif image is None:
        print("no packages are left: code in the sandbox has the standard library")
    else:
        print(escape_controls(f"the sandbox has {', '.join(image.packages)}"))
    return ANSWERED


def _facts(image: "PackageImage | None") -> dict[str, Any] | None:
    return None if image is None else asdict(image) | {"folder": str(image.folder)}
