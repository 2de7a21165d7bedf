"""The npm packages that the image is built from, with exact version and integrity as `npm view` reports them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One npm package; `integrity` is the sha512 of its tarball in base64, as npm writes it."""

    name: str
    version: str
    integrity: str
    license: str


PYODIDE = Package(
    "pyodide",
    "314.0.7",
    "sha512-0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A==",
    "MPL-2.0; contains CPython 3.14.2 (PSF-2.0)",
)
BINARYEN = Package(
    "binaryen",
    "132.0.0",
    "sha512-4Usg7yEvwO3FMso3Oov6qkOOHSod1IEv+boKkh77kTljM+eNBouqCTbqWswGzbG+vDNO/b/v2C4gfEh1WgB9Lg==",
    "Apache-2.0",
)

CPYTHON_VERSION = "3.14.2"
