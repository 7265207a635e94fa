"""What an ImportError of a driver means to an operator: the library, and the package that has it.

Wherever it is raised, when the driver's module is loaded or later when the driver is set up, no
retry mends it; installing something does.
"""

from __future__ import annotations

from volsvc import exceptions as exc

#: What has the libraries that drivers import, for the sentence that says what to install: Debian's
#: packages, or what pip installs where Debian has none.
PACKAGES = {
    "rados": "python3-rados",
    "rbd": "python3-rbd",
    "nbd": "python3-libnbd",
    "rtslib_fb": "python3-rtslib-fb",
    "obstore": "volsvc[s3] with pip",
}


def missing_library(error: ImportError, needed_by: str) -> exc.MissingDriverLibrary:
    """The error of ours that says the same; ``needed_by`` is what asked for the library."""
    name = error.name or ""
    package = PACKAGES.get(name.partition(".")[0])
    remedy = f"install {package}" if package else "install the package that has it"
    if isinstance(error, ModuleNotFoundError) and name:
        return exc.MissingDriverLibrary(library=f'the Python library "{name}" ({needed_by})', remedy=remedy)
    what = f'the Python library "{name}"' if name else "a Python library"
    return exc.MissingDriverLibrary(
        f"{what} ({needed_by}) can't be loaded ({exc.describe(error)}): {remedy} in a version that fits, then reload"
    )
